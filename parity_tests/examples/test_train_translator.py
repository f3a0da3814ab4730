import itertools
import re

import numpy as np
import pytest
import train_translator
from train_translator import Options, load_data, load_translator, score, train, translate

from jax_attn.weights import numpy_state_dict

TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8, "max_tokens": 12}
TINY |= {"vocab_size": 300, "num_beams": 2}
COLOURS = {"red": "rot", "blue": "blau", "green": "grün", "black": "schwarz", "white": "weiß"}
THINGS = {"house": "Haus", "tree": "Baum", "bird": "Vogel", "book": "Buch", "ship": "Schiff", "dog": "Hund"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    rows = [
        f"{en} {thing}\t{THINGS[thing]} {de}"
        for (en, de), thing in itertools.product(COLOURS.items(), THINGS)
    ]
    path.write_text("\n".join(["source\ttarget", *rows]) + "\n", encoding="utf-8")
    return path


def run(*arguments):
    return train_translator.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_finished_run_translates(pairs, tmp_path, capsys):
    options = Options(data=pairs, out=tmp_path / "run", steps=3, eval_every=3, **TINY)
    result = train(options)
    reported = capsys.readouterr().out
    assert re.search(r"\d+\.\d% exact, chrF \d+\.\d, BLEU \d+\.\d \(sacrebleu, tokenize=13a\)", reported)
    assert set(result.figures["jax"]) == {"loss", "tokens right"}

    model, tokenizer = load_translator(tmp_path / "run" / "model")
    trained, loaded = (numpy_state_dict(each) for each in (result.trainers["jax"].model, model))
    assert trained.keys() == loaded.keys()
    assert all(np.array_equal(trained[key], loaded[key]) for key in trained)
    (translation,) = translate(model, tokenizer, ["red house"], options)
    assert run("--out", tmp_path / "run", "--translate", "red house", "--num-beams", 2) == 0
    assert capsys.readouterr().out.rstrip("\n") == translation


@pytest.mark.slow
def test_both_frameworks_have_the_same_losses_in_float64(pairs):
    pytest.importorskip("torch")
    options = Options(data=pairs, framework="both", dtype="float64", steps=100, eval_every=100, **TINY)
    result = train(options)
    jax, torch = (np.array(result.losses[name]) for name in ("jax", "torch"))
    assert len(jax) == 100
    assert np.abs(jax - torch).max() < 1e-8
    assert jax[-10:].mean() < jax[:10].mean() - 0.5
    for name, figure in result.figures["jax"].items():
        assert abs(figure - result.figures["torch"][name]) < 1e-8


def test_held_out_sources_are_not_trained_on(pairs):
    found = load_data(Options(data=pairs, **TINY))
    training, held_out = (set(found.of(found.texts.sources, held)) for held in (False, True))
    assert held_out
    assert not training & held_out
    assert found.of(found.texts.targets, True) == [
        f"{THINGS[thing]} {COLOURS[colour]}"
        for colour, thing in map(str.split, found.of(found.texts.sources, True))
    ]


def test_scores_compare_words_where_they_can_be_told_apart():
    pytest.importorskip("sacrebleu")
    assert score(["das rote Haus am See"], ["das rote Haus am See"]).startswith(
        "100.0% exact, chrF 100.0, BLEU 100.0"
    )
    assert "tokenize=13a" in score(["das Haus"], ["das rote Haus"])
    korean = score(["잠자는 고양이", "금메달"], ["잠자는 강아지", "금메달"])
    assert korean.startswith("50.0% exact")
    assert "tokenize=char" in korean


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("source\nred house\n", "there is no column 'target'"),
        ("", "is empty"),
        ("source\ttarget\nred house\t\n", "line 2: 'target' holds no text"),
        ("source\ttarget\nred\trot\nred\trot\n", "at least two different texts"),
    ],
)
def test_bad_pairs_are_told_in_one_line(tmp_path, capsys, content, told):
    path = tmp_path / "pairs.tsv"
    path.write_text(content, encoding="utf-8")
    assert run("--data", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"train_translator.py: .*{told}", line)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_heads": 3}, "--num-heads must divide --hidden-size"),
        ({"targets": "train.de"}, "--targets needs --data"),
        ({"translate": "red house"}, "--translate takes a text, and --out"),
        ({"label_smoothing": 1.5}, "--label-smoothing must be from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        Options(**given)


def test_folders_are_told_before_training(pairs, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("--data", pairs, "--vocab-size", 300, "--out", tmp_path / "file" / "run") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert run("--translate", "red house", "--out", tmp_path / "absent") == 2
    assert "there is no finished run" in capsys.readouterr().err
