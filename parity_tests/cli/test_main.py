"""The command line as a user types it: what it prints, its exit status, and one line for what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import jax_attn
from jax_attn.catalogue import CATALOGUE
from jax_attn.cli import proving
from jax_attn.cli.main import BROKEN_PIPE, INTERRUPTED, main, names_first
from jax_attn.cli.terminal import terminal
from jax_attn.models.bert import Bert
from jax_attn.parity.lanes import LANES
from jax_attn.weights import save_pretrained
from torch_ref.from_scratch.simple import SimpleSelfAttention

WORDS = ("[UNK]", "a", "happy", "person", "sunny", "day")
QUICKEST = "linear-qkv"


@pytest.fixture
def folder(tmp_path):
    """A tiny checkpoint that reads the words above."""
    return tiny_checkpoint(tmp_path / "tiny")


def tiny_checkpoint(folder):
    save_pretrained(tiny_bert(positions=5), folder)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tiny_bert(positions: int) -> Bert:
    return Bert(len(WORDS), 12, 1, 3, 17, max_position_embeddings=positions, rngs=nnx.Rngs(0))


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, output and errors of one command."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refusal(capsys, *arguments) -> str:
    """What a command says of bad input, before it has done anything: a line, or a list of errors."""
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("jax-attn: ")
    assert err.count("\n") == 1 or "error" in err
    return err


def test_list_shows_every_variant_with_its_class_and_source(capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0
    for twin in CATALOGUE.values():
        assert f"  {twin.name} " in out
        assert twin.summary in out
        assert f"jax_attn.{twin.where.replace(':', '.')}" in out
        assert twin.source in out


def test_the_table_of_the_documentation_is_that_of_the_catalogue(capsys):
    status, out, _ = run(capsys, "list", "--markdown")
    assert status == 0
    told = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text(encoding="utf-8")
    assert told == out, "run: jax-attn list --markdown > docs/catalogue.md"


def test_a_variant_is_proved_in_every_lane_and_written_down(capsys, tmp_path):
    status, out, _ = run(capsys, "verify", QUICKEST, "--json", tmp_path / "proof.json")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith(QUICKEST))
    assert line.endswith("passed")
    assert "1 of 1 variants equal their torch twins" in out
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["passed"]
    assert proof["pretrained"] is None
    (variant,) = proof["variants"]
    assert variant["title"] == QUICKEST
    assert {result["lane"] for result in variant["results"]} == set(LANES) - {"dropout"}


def test_only_the_lanes_that_were_asked_for(capsys):
    status, out, _ = run(capsys, "verify", QUICKEST, QUICKEST, "--lanes", "float32")
    assert status == 0
    header = out.splitlines()[0]
    assert "float32" in header
    assert "float64" not in header
    assert "bfloat16" not in header
    assert out.count("passed") == 1  # a name that is given twice is proved once


def test_a_twin_that_differs_fails_with_the_tensor_and_the_place(capsys, monkeypatch, tmp_path):
    forward = SimpleSelfAttention.forward
    monkeypatch.setattr(
        SimpleSelfAttention, "forward", lambda self, x, **options: forward(self, 1.001 * x, **options)
    )
    status, out, _ = run(
        capsys, "verify", "simple-weights", "--lanes", "float64", "--json", tmp_path / "proof.json"
    )
    assert status == 1
    assert "FAILED" in out
    assert "0 of 1 variants" in out
    assert "plain" in out
    assert "flax" in out
    assert "torch" in out
    assert not json.loads((tmp_path / "proof.json").read_text())["passed"]


@pytest.mark.slow
def test_several_processes_say_what_one_says(capsys, monkeypatch):
    names = ["linear-qkv", "positions-sinusoidal"]
    twins = [CATALOGUE[name] for name in names]
    alone = [report.to_json()["results"] for report in proving.proofs(twins, ["float64"])]
    monkeypatch.setattr(proving, "WORTH_A_PROCESS", 1)
    assert proving.processes_for(len(twins)) > 1
    together = list(proving.proofs(twins, ["float64"]))
    assert [report.title for report in together] == names
    assert all(report.passed for report in together)
    for one, other in zip(alone, together, strict=True):
        assert [r["name"] for r in one] == [r["name"] for r in other.to_json()["results"]]


def test_a_checkpoint_of_the_users_own_reads_their_sentences(capsys, folder, tmp_path):
    text = ["--text", "a happy person", "--text", "a sunny day", "--text", "person"]
    where = ["--checkpoint", folder, "--json", tmp_path / "proof.json"]
    status, out, _ = run(capsys, "verify", "pretrained", *where, *text, "--lanes", "float64")
    assert status == 0
    assert "tiny on 3 sentences, up to 3 tokens" in out
    assert "a happy person | a sunny day" in out
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["variants"] == []
    assert proof["pretrained"]["passed"]
    assert len(proof["pretrained"]["similarities"]) == 3
    for pair in proof["pretrained"]["similarities"]:
        assert abs(pair["flax"] - pair["torch"]) < 1e-6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("verify --lanes float64 simple", "verify simple --lanes float64"),
        (
            "diff --lanes float64 float32 dropout.py --train",
            "diff dropout.py --lanes float64 float32 --train",
        ),
        ("verify --lanes float64 flaot32", "verify --lanes float64 flaot32"),  # refused as a lane
        ("verify --lanes simple", "verify --lanes simple"),
        ("verify a --text b", "verify a --text b"),
    ],
)
def test_lanes_leave_the_names_alone(given, expected):
    assert names_first(given.split()) == expected.split()


def test_a_sentence_leaves_the_names_alone(capsys):
    assert "no variant is called 'simpel'" in refusal(capsys, "verify", "--text", "a day", "simpel")


def started(*arguments, code="main()", **surroundings):
    """The command in a process of its own."""
    run = f"import sys; from jax_attn.cli.main import guarded, main; sys.exit({code})"
    return subprocess.Popen(
        [sys.executable, "-c", run, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **surroundings},
    )  # fmt: skip


@pytest.mark.slow
def test_a_reader_that_goes_is_no_error():
    with started("list") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (1, BROKEN_PIPE)


IN_A_CALLBACK = """
import gc, signal, sys
from jax_attn.cli.main import ended_by_interrupt, guarded

def run():
    with ended_by_interrupt("it"):
        gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))
        gc.collect()
    print("ran on")
    return 0

gc.disable()  # or one is begun before its time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
sys.exit(guarded("it", run))
"""


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
def test_an_interrupt_ends_a_command_wherever_it_lands():
    """An exception that is raised in a callback of the garbage collector is printed, and passed over."""
    done = subprocess.run([sys.executable, "-c", IN_A_CALLBACK], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "it: interrupted\n", INTERRUPTED)


def test_a_terminal_of_few_characters_gets_replacements():
    for encoding, expected in (("ascii", b"E[x?] ???\n"), ("utf-8", "E[x²] 마스크\n".encode())):
        code = 'guarded("it", lambda: print("E[x\\xb2] \\ub9c8\\uc2a4\\ud06c") or 0)'
        assert started(code=code, PYTHONIOENCODING=encoding).communicate() == (expected, b"")


def test_colours_only_where_they_are_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert terminal().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal().color_system is None


def test_a_function_called_train_is_no_picture(capsys):
    terminal().print("port.py:train: passed", markup=False)
    assert capsys.readouterr().out == "port.py:train: passed\n"


def test_the_version_and_those_of_the_frameworks(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith(f"jax-attn {jax_attn.__version__} (jax ")
    done = subprocess.run(
        [sys.executable, "-m", "jax_attn", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == out


def test_a_bad_name_lists_the_nearest(capsys):
    message = refusal(capsys, "verify", "multi-haed", QUICKEST)
    assert "'multi-haed'" in message
    assert "multi-head" in message
    assert "jax-attn list" in message
    assert "no variant is called '%%%'" in refusal(capsys, "verify", "%%%")


def test_a_bad_place_for_the_json_is_told_before_the_work(capsys, tmp_path):
    assert "missing" in refusal(capsys, "verify", "--json", tmp_path / "missing" / "proof.json")


@pytest.mark.slow
def test_attributes_without_meaning_may_be_ignored(capsys, folder):
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "house_note": 1, "house_rule": [2]}))
    command = ["verify", "--checkpoint", folder, "--text", "a day", "--lanes", "float64", "pretrained"]
    told = refusal(capsys, *command)
    assert "house_note=1 is not known here; house_rule=[2] is not known here" in told
    assert "--ignore NAME" in told
    assert "house_rule=[2]" in refusal(capsys, *command, "--ignore", "house_note")
    assert run(capsys, *command, "--ignore", "house_note", "--ignore", "house_rule")[0] == 0
    assert "takes no --checkpoint, --text or --ignore" in refusal(
        capsys, "verify", "--power", "--ignore", "x"
    )


def test_a_bad_checkpoint_is_told_before_the_work(capsys, folder, tmp_path):
    def told(path=folder, *more) -> str:
        return refusal(capsys, "verify", "--checkpoint", path, *(more or ("--text", "a day")))

    assert "nowhere" in told(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "config.json" in told(tmp_path / "empty")
    assert '"a a a a a a" has 6 tokens, and the model 5 positions' in told(folder, "--text", "a a a a a a")
    assert "is not UTF-8 text" in told(folder, "--text", "a \udcff day")

    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, settings = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in told()
    weights.write_bytes(whole)
    config.write_text(json.dumps({**settings, "model_type": "mamba"}))
    assert "mamba" in told()
    config.write_text(json.dumps({**settings, "is_decoder": True}))
    assert "is_decoder" in told()
    config.write_text("{")
    assert "config.json" in told()
    config.write_text(json.dumps(settings))
    tensors = load_file(weights)
    key = next(key for key in tensors if key.endswith("word_embeddings.weight"))
    save_file({**tensors, key: np.full_like(tensors[key], np.nan)}, weights)
    assert "NaN" in told()
    save_file(tensors, weights)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in told()


def test_a_file_that_cannot_be_written_is_refused(capsys, tmp_path):
    assert "is a folder" in refusal(capsys, "verify", "flex", "--json", tmp_path)


@pytest.mark.parametrize("command", [(), ("list",), ("verify",)])
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "jax-attn" in capsys.readouterr().out


def test_a_bad_command_lists_the_nearest(capsys):
    assert refusal(capsys, "verfy", "flex") == "jax-attn: there is no command 'verfy'; did you mean verify?\n"
    assert "there are list, verify, diff, trace, show, compile, train" in refusal(capsys, "nonsense")


def test_a_bad_lane_is_refused():
    with pytest.raises(SystemExit) as caught:
        main(("verify", "--lanes", "float16"))
    assert caught.value.code == 2


def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path):
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError('gone', name='tyro')")
    code = "import sys; from jax_attn.cli.main import main; sys.exit(main(['list']))"
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 2
    assert done.stderr == "jax-attn: this command needs tyro, which is not installed: pip install tyro\n"
    assert "Traceback" not in done.stderr
