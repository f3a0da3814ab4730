import itertools

import pytest
from flax import nnx
from train_translator import Options, load_data, make_model, save_translator

from jax_attn.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the translator's program that has learned nothing."""
    folder = tmp_path_factory.mktemp("runs") / "en-de"
    data = folder / "pairs.tsv"
    (folder / "model").mkdir(parents=True)
    rows = itertools.product(
        ("red rot", "blue blau", "green grün"), ("house Haus", "tree Baum", "bird Vogel")
    )
    pairs = ["\t".join(map(" ".join, zip(*map(str.split, row), strict=True))) for row in rows]
    data.write_text("\n".join(["source\ttarget", *pairs]), encoding="utf-8")
    options = Options(
        data=data, hidden_size=16, num_layers=2, num_heads=2, max_tokens=12, vocab_size=300, num_beams=2
    )
    tokenizer = load_data(options).tokenizer
    model = make_model(tokenizer.vocab_size, options)
    save_translator(folder / "model", model.build("jax_attn", rngs=nnx.Rngs(0)), tokenizer, model.arguments)
    return folder


@pytest.mark.parametrize("options", [[], pytest.param(["--against", "torch"], marks=pytest.mark.slow)])
def test_a_translator_is_shown_with_its_cross_attention(run, tmp_path, options, capsys):
    page = tmp_path / "page.html"
    assert (
        main(
            [
                "show",
                "red house",
                "--pair",
                "Haus rot",
                *options,
                "--checkpoint",
                str(run),
                "--out",
                str(page),
            ]
        )
        == 0
    )
    told = capsys.readouterr().out
    assert all(kind in told for kind in ("encoder", "decoder", "cross"))
    assert "en-de" in page.read_text(encoding="utf-8")


def test_a_text_that_is_too_long_is_refused(run, tmp_path, capsys):
    arguments = ["show", "red house " * 9, "--pair", "Haus", "--checkpoint", str(run)]
    assert main([*arguments, "--out", str(tmp_path / "page.html")]) == 2
    assert "has 12 positions, got" in capsys.readouterr().err
