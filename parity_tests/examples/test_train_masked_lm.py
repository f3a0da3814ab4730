import re
from dataclasses import replace

import numpy as np
import pytest
import train_classifier
import train_masked_lm
from train_masked_lm import Options

from jax_attn.training.data import IGNORED


@pytest.fixture(scope="module")
def options(tiny, tmp_path_factory):
    """Each text is one of the table's, or a piece of it."""
    return Options(**{**tiny, "steps": 100}, out=tmp_path_factory.mktemp("runs") / "encoder", eval_every=100)


@pytest.fixture(scope="module")
def run(options):
    return train_masked_lm.train(options)


@pytest.mark.slow
def test_the_loss_falls_below_guessing_by_frequency(run, options):
    losses = run.losses["jax"]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:3])
    texts = train_masked_lm.load_data(options)
    batches = [texts.test[number] for number in range(len(texts.test))]
    hidden = np.concatenate([batch["labels"][batch["labels"] != IGNORED] for batch in batches])
    assert run.figures["jax"]["accuracy"] > 2 / len(np.unique(hidden))


def test_long_texts_are_cut_into_pieces_and_nothing_is_lost(options):
    texts = train_masked_lm.load_data(options)
    tokenizer = texts.tokenizer
    text = " ".join(f"f{number}" for number in range(30))
    pieces = train_masked_lm.pieces(tokenizer, [text], options.max_tokens)
    assert len(pieces) > 1
    rows = np.arange(len(pieces))
    batch = pieces.collate(rows, rows)
    assert batch["input_ids"].shape[1] <= options.max_tokens
    assert set(batch["input_ids"][:, 0]) == {tokenizer.begin_id}
    (whole,) = tokenizer.encode([text], specials=False)
    inside = batch["input_ids"][~np.isin(batch["input_ids"], tokenizer.special_ids)]
    np.testing.assert_array_equal(inside, whole)


def test_the_masks_of_a_step_are_always_the_same(options):
    first, second = (train_masked_lm.load_data(options).training for _ in range(2))
    for name, values in first[3].items():
        np.testing.assert_array_equal(values, second[3][name])
    assert (first[3]["labels"] != first[4]["labels"]).any()


@pytest.mark.slow
def test_the_classifier_starts_from_it(run, options, capsys):
    tuned = train_classifier.Options(
        from_pretrained=options.out / "model",
        data=options.data,
        text_column="words",
        label_column="kind",
        steps=1,
        batch_size=16,
        max_tokens=8,
    )
    model = train_classifier.make_task(train_classifier.load_data(tuned), tuned).model
    assert "drew weights anew" in capsys.readouterr().out
    table = run.trainers["jax"].model.model.embeddings.token.embedding
    np.testing.assert_array_equal(model.model.embeddings.token.embedding, table)


@pytest.mark.slow
def test_both_frameworks_coincide_in_float64(options):
    both = replace(options, out=None, framework="both", dtype="float64", steps=100)
    losses = train_masked_lm.train(both).losses
    ours, theirs = np.array(losses["jax"]), np.array(losses["torch"])
    assert ours.shape == theirs.shape == (100,)
    assert np.mean(ours[-10:]) < ours[0] - 0.1
    assert abs(ours - theirs).max() <= 1e-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", 1], r"--hidden must be from .* got 1"),
        (["--data", "absent.txt"], "absent.txt"),
        (["--data", "ONE"], r"one.txt is one text: give more, or cut it with --unit paragraph or line"),
        (["--text-column", "absent"], "'absent'"),
        (["--vocab-size", 7], "--vocab-size must be at least"),
    ],
)
def test_bad_input_is_told_in_one_line(capsys, tmp_path, table, arguments, message):
    one = tmp_path / "one.txt"
    one.write_text("a text, and no other")
    arguments = [one if argument == "ONE" else argument for argument in arguments]
    if "--data" not in arguments:
        arguments = [*arguments, "--data", table]
    if "--text-column" not in arguments:
        arguments = [*arguments, "--text-column", "words"]
    assert train_masked_lm.main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"^train_masked_lm.py: .*{message}", line)
