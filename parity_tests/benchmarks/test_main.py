"""`python -m benchmarks` as a user types it."""

import json

import pytest
from flax import nnx

from benchmarks import start
from benchmarks.__main__ import main
from benchmarks.decoder import SMOLLM2
from benchmarks.whisper import TINY
from jax_attn.weights import from_config, save_pretrained
from parity_tests.cli.test_main import tiny_bert, tiny_checkpoint


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "tiny")


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def refusal(capsys, *arguments):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.count("\n") == 1
    return err


@pytest.mark.slow
def test_every_contender_is_measured_and_written_down(capsys, folder, tmp_path):
    save_pretrained(tiny_bert(positions=128), folder)  # the sentences are the benchmark's own
    sizes = ("--count", "5", "--batch-size", "3", "--rounds", "2")
    files = ("--json", tmp_path / "bench.json", "--plot", tmp_path / "bench.png")
    status, out, _ = run(capsys, "sentences", *sizes, "--checkpoint", folder, *files)
    assert status == 0
    (measured,) = json.loads((tmp_path / "bench.json").read_text())["comparisons"]
    assert set(measured["seconds"]) == {"Flax, jitted", "torch twin", "transformers"}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in measured["seconds"].values())
    assert all(name in out for name in measured["seconds"])
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_new_process_reads_beside_transformers(capsys, folder, tmp_path):
    save_pretrained(tiny_bert(positions=128), folder)
    files = ("--checkpoint", folder, "--json", tmp_path / "bench.json")
    status, out, _ = run(capsys, "start", "--batch-size", 3, "--rounds", 1, *files)
    assert status == 0
    (measured,) = json.loads((tmp_path / "bench.json").read_text())["comparisons"]
    assert all(name in out for name in measured["seconds"])
    assert "batch_size must be at least 1" in refusal(capsys, "start", "--batch-size", 0)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"Flax, jitted: FileNotFoundError: .*model\.safetensors"):
        start.bench_start(folder, 3, 1)


@pytest.mark.slow
def test_a_decoder_reads_and_writes_beside_transformers(capsys, tmp_path):
    sizes = {"vocab_size": 53, "hidden_size": 12, "intermediate_size": 17, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}
    module = from_config({**SMOLLM2, **sizes, **heads}, rngs=nnx.Rngs(0))
    save_pretrained(module, tmp_path)
    files = ("--checkpoint", tmp_path, "--json", tmp_path / "bench.json")
    status, out, _ = run(capsys, "decoder", "--prompt", 19, "--new", 3, "--rounds", 1, *files)
    assert status == 0
    measured = json.loads((tmp_path / "bench.json").read_text())["comparisons"]
    assert [(row["prompt"], row["new"]) for row in measured] == [(19, 1), (16, 3)]
    assert all(name in out for name in measured[0]["seconds"])
    assert "new must be at least 1" in refusal(capsys, "decoder", "--new", 0)


@pytest.mark.slow
def test_whisper_reads_beside_transformers(capsys, tmp_path):
    sizes = {
        "vocab_size": 53,
        "d_model": 12,
        "num_mel_bins": 5,
        "max_source_positions": 11,
        "pad_token_id": None,
    }
    layers = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in {"layers": 1, "attention_heads": 2, "ffn_dim": 17}.items()
    }
    save_pretrained(from_config({**TINY, **sizes, **layers}, rngs=nnx.Rngs(0)), tmp_path)
    files = ("--checkpoint", tmp_path, "--json", tmp_path / "bench.json")
    status, out, _ = run(capsys, "whisper", "--batch", 2, "--rounds", 1, *files)
    assert status == 0
    (measured,) = json.loads((tmp_path / "bench.json").read_text())["comparisons"]
    assert (measured["batch"], measured["frames"]) == (2, 22)
    assert all(name in out for name in measured["seconds"])
    assert "batch must be at least 1" in refusal(capsys, "whisper", "--batch", 0)


def test_attention_takes_any_shape(capsys):
    status, out, _ = run(capsys, "attention", "--shape", 2, 37, 3, 8, "--no-causal", "--rounds", 1)
    assert status == 0
    assert "B2 N3 T37 H8 full float32, forward+backward" in out
    assert "times as fast as torch SDPA (geometric mean of 2" in out


@pytest.mark.slow
def test_scale_draws_how_time_and_memory_grow(capsys, tmp_path):
    sizes = ("--tokens", 17, 31, "--dtypes", "float32", "bfloat16", "--rounds", 1, "--no-backward")
    files = ("--json", tmp_path / "scale.json", "--plot", tmp_path / "scale.png")
    status, out, _ = run(capsys, "scale", *sizes, *files)
    assert status == 0
    assert "products alone (geometric mean of 4" in out
    measured = json.loads((tmp_path / "scale.json").read_text())["comparisons"]
    assert [(row["tokens"], row["dtype"]) for row in measured] == [
        (tokens, dtype) for dtype in ("float32", "bfloat16") for tokens in (17, 31)
    ]
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_size_is_refused(capsys, folder, tmp_path):
    assert "rounds must be at least 1, got 0" in refusal(capsys, "ladder", "--rounds", "0")
    assert "four positive sizes" in refusal(capsys, "flex", "--shape", 1, 0, 2, 3)
    assert "batch_size must be at least 1" in refusal(capsys, "sentences", "--batch-size", "-1")
    assert "variants must be some of" in refusal(capsys, "ladder", "--variants")
    assert "tokens must be lengths from 1 on, got 0 5" in refusal(capsys, "scale", "--tokens", 0, 5)
    assert "places must be between 1 and 1023, got 1024" in refusal(capsys, "cached", "--places", 1024)
    assert "must end in one of .png" in refusal(capsys, "flex", "--plot", tmp_path / "chart.foo")
    missing = tmp_path / "missing" / "bench.json"
    assert "missing" in refusal(capsys, "attention", "--json", missing)
    where = ("--checkpoint", folder)
    assert "count must be at least 1" in refusal(capsys, "sentences", "--count", 0, *where)
    assert "count must be from 1 to" in refusal(capsys, "sentences", "--count", 10**6, *where)


@pytest.mark.parametrize("command", [(), ("flex",), ("scale",)])
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "benchmarks" in capsys.readouterr().out


def test_bad_words_are_refused():
    with pytest.raises(SystemExit) as caught:
        main(["lunch"])
    assert caught.value.code == 2
