import itertools
import re

import pytest
from flax import nnx
from train_translator import Options, load_data, make_model, save_translator

from jax_attn.cli.main import main
from jax_attn.parity.tolerances import SAME_FLOAT32


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


@pytest.fixture
def show(run, tmp_path, capsys):
    """The status of the command, what it said, and its page."""

    def shown(*arguments):
        page = tmp_path / "page.html"
        status = main(["show", *arguments, "--checkpoint", str(run), "--out", str(page)])
        said = capsys.readouterr()
        return status, said.out + said.err, page.read_text(encoding="utf-8") if page.exists() else ""

    return shown


@pytest.mark.parametrize("options", [[], pytest.param(["--against", "torch"], marks=pytest.mark.slow)])
def test_a_translator_is_shown_with_its_cross_attention(show, options):
    """Its decoder reads a text from the token that begins it, and not the one that ends it."""
    status, said, page = show("red house", "--pair", "Haus rot", *options)
    assert status == 0
    kinds = re.findall(r"(\w+): 2 layers of 2 heads, (\d+) x (\d+) tokens", said)
    (source,) = {int(keys) for kind, _, keys in kinds if kind != "decoder"}
    (target,) = {int(keys) for kind, _, keys in kinds if kind == "decoder"}
    assert kinds == [
        ("encoder", str(source), str(source)),
        ("decoder", str(target), str(target)),
        ("cross", str(target), str(source)),
    ]
    assert target == source - 1, "both are two words of one token"
    assert all(float(each) < SAME_FLOAT32 for each in re.findall(r"differ by at most (\S+)", said))
    assert ("differ by" in said) is bool(options)
    assert "en-de" in page


def test_a_translation_that_comes_to_no_end_is_shown_as_far_as_there_are_positions(show):
    """It has learned nothing, and its letters are more tokens when they are read again."""
    status, said, _ = show("red house")
    assert status == 0, said
    assert "decoder: 2 layers of 2 heads, 12 x 12 tokens" in said


def test_a_text_that_is_too_long_is_refused(show):
    status, said, _ = show("red house " * 9, "--pair", "Haus")
    assert status == 2
    assert "the translator has 12 positions, got" in said
