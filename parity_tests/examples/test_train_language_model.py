import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import train_language_model
from train_language_model import PRESETS, Options, train

from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.weights import from_pretrained

TINY = ["--hidden-size", 16, "--num-layers", 1, "--num-heads", 2, "--block", 16, "--batch-size", 4]
TINY += ["--held-out", 0.2, "--sample-tokens", 8]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "counting.txt"
    path.write_text(" ".join(f"{number} sheep," for number in range(400)), encoding="utf-8")
    return path


def run(*arguments):
    return train_language_model.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("style", "tokens"), [("llama", "characters"), pytest.param("gpt2", "bpe", marks=pytest.mark.slow)]
)
def test_a_finished_run_writes_on_and_is_a_checkpoint_that_transformers_loads(
    text, tmp_path, capsys, style, tokens
):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    own = ["--style", style, "--tokens", tokens, "--vocab-size", 300]
    assert run("--data", text, "--out", tmp_path / "run", *TINY, *own, "--steps", 3, "--eval-every", 3) == 0
    assert re.search(r"jax: \d\.\d+ nats a held-out character", capsys.readouterr().out)

    folder = tmp_path / "run" / "model"
    model = from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = np.arange(16, dtype=np.int32)[None] % model.vocab_size
    with torch.no_grad():
        logits = theirs(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(model(jnp.asarray(ids)), logits, rtol=0, atol=SAME_FLOAT32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert "sheep" in tokenizer.decode(tokenizer("3 sheep, ").input_ids)

    sample = ["--out", tmp_path / "run", "--sample", "3 sheep", "--sample-tokens", 9]
    assert run(*sample, "--temperature", 0) == 0
    likeliest = capsys.readouterr().out
    assert likeliest.startswith("3 sheep")
    assert len(likeliest) > len("3 sheep") + 5
    assert run(*sample, "--temperature", 0.5, "--top-k", 1) == 0
    assert capsys.readouterr().out == likeliest


@pytest.mark.slow
@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_both_frameworks_have_the_same_losses_in_float64(text, style):
    pytest.importorskip("torch")
    tiny = Options(
        data=str(text),
        style=style,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        block=16,
        batch_size=4,
        dropout=0.1,
        steps=100,
        framework="both",
        dtype="float64",
        sample_tokens=1,
        eval_every=100,
    )
    result = train(tiny)
    jax, torch = (np.array(result.losses[name]) for name in ("jax", "torch"))
    assert len(jax) == 100
    assert np.abs(jax - torch).max() < 1e-8
    assert jax[-10:].mean() < jax[:10].mean() - 0.5
    assert abs(result.figures["jax"]["loss"] - result.figures["torch"]["loss"]) < 1e-8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "absent.txt"], "absent.txt"),
        (["--data", "TEXT", "--block", 4000], r"--block 4000: give more text or a smaller --block"),
        (["--data", "EMPTY"], "is empty"),
        (["--data", "TEXT", "--tokens", "bpe", "--vocab-size", 100], "--vocab-size must be at least 261"),
        (["--data", "TEXT", *TINY, "--out", "TEXT"], "counting.txt"),
        (["--sample", "In the beginning", "--out", "absent"], "absent"),
    ],
)
def test_bad_input_is_told_in_one_line(text, tmp_path, capsys, arguments, told):
    empty = tmp_path / "empty.txt"
    empty.touch()
    files = {"TEXT": text, "EMPTY": empty}
    assert run(*(files.get(argument, argument) for argument in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"train_language_model.py: .*{told}", line)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_heads": 3}, "--num-heads must divide --hidden-size=128 into even parts, got 3"),
        ({"num_kv_heads": 3}, "--num-kv-heads must divide --num-heads=4, got 3"),
        ({"num_kv_heads": 2, "style": "gpt2"}, "--num-kv-heads is of --style llama"),
        ({"sample": "In the beginning"}, "--sample takes .* and --out"),
        ({"block": 1}, "--block must be from 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        Options(**given)


def test_a_folder_that_cannot_be_written_is_told_before_training(text, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("--data", text, *TINY, "--out", tmp_path / "file" / "run") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_nanogpts_documented_run_is_a_preset():
    nanogpt = PRESETS["nanogpt-cpu"]
    sizes = (nanogpt.block, nanogpt.batch_size, nanogpt.num_layers, nanogpt.num_heads, nanogpt.hidden_size)
    assert sizes == (64, 12, 4, 4, 128)
    assert (nanogpt.steps, nanogpt.dropout, nanogpt.style) == (2000, 0.0, "gpt2")


def test_the_pod_preset_is_a_decoder_of_1_3_billion_parameters():
    import jax
    from flax import nnx

    from jax_attn.training.models import starting_model

    pod = PRESETS["pod"]
    config = train_language_model.make_config(pod.vocab_size, pod)
    model = nnx.eval_shape(lambda: starting_model(config, replace(pod, scan=True), "ForCausalLM", scan=True))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert 1.2e9 < count < 1.4e9
