"""What a comparison of trainings must never pass, or take."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attn.optim as ours
from jax_attn.parity.training.report import Deviation, TrainingReport
from parity_tests.parity.training.training_pairs import (
    built,
    draw_batches,
    first,
    flax_loss,
    theirs,
    torch_loss,
    train,
)


def test_a_training_that_moves_nothing_is_no_pass():
    report = train(ours.adamw(0.0), built(torch.optim.AdamW, lr=0.0), steps=2)
    assert not report.passed
    assert "nothing to compare" in str(report)


def test_a_lane_without_any_update_is_no_pass():
    """A report is of what was compared: of losses alone, or in one lane of two, it is no proof."""
    loss = Deviation("float64", 0, "loss", "", 0.0, 1.0, True)
    update = Deviation("float64", 0, "update", "a", 0.0, 1.0, True)
    assert not TrainingReport(deviations=[loss]).passed
    assert TrainingReport(deviations=[loss, update]).passed
    assert not TrainingReport(deviations=[loss, update, replace(loss, lane="float32")]).passed
    assert not TrainingReport().passed
    assert "no update was compared" in str(TrainingReport(deviations=[loss]))


def test_random_numbers_that_are_no_dropout_are_no_pass():
    def noisy(module, x, labels):
        return torch_loss(module, x + torch.randn_like(x), labels)

    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), loss=(flax_loss, noisy), steps=2)
    assert first(report) == (0, "run", "")
    assert "it draws random numbers outside of dropout (randn_like)" in str(report)


def test_losses_that_are_nan_are_no_pass():
    x, labels = draw_batches()[0]
    batches = [(np.where(x > 1, np.nan, x), labels)]
    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), batches=batches, steps=2)
    assert first(report) == (0, "loss", "")
    json.dumps(report.to_json(), allow_nan=False)


def test_an_optimizer_that_cannot_be_stepped_is_no_pass():
    report = train(ours.sgd(0.1), built(torch.optim.LBFGS, lr=0.1), steps=2)
    assert first(report) == (0, "run", "")
    assert "torch raised TypeError" in str(report)


def test_a_side_that_raises_is_no_pass():
    def broken(module, x, labels):
        raise RuntimeError("out of order")

    for place, side in enumerate(("flax", "torch")):
        loss = [flax_loss, torch_loss]
        loss[place] = broken
        report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), loss=tuple(loss), steps=2)
        assert first(report) == (0, "run", "")
        assert f"{side} raised RuntimeError: out of order" in str(report)
        with pytest.raises(AssertionError, match="out of order"):
            report.assert_passed()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batches=[]), "batches must hold at least one batch"),
        (dict(batches=np.zeros((3, 4))), "batches must be a sequence of batches, got one ndarray"),
        (dict(batches=[np.zeros(3)]), "batches must be tuples or dicts of arrays, got ndarray in batches[0]"),
        (dict(batches=[()]), "batches must be tuples or dicts of arrays, got nothing in batches[0]"),
        (dict(steps=0), "steps must be at least 1, got steps=0"),
        (dict(lanes=("bfloat16",)), "lanes must be some of float64, float32, got bfloat16"),
        (dict(loss=flax_loss), "loss must be a pair"),
        (dict(clip=(0.5, None)), "clip[0] must be an optax transformation, got float"),
        (dict(loss=(lambda m, x, y: m(x), torch_loss)), "flax's loss must be a floating scalar, got"),
        (dict(loss=(flax_loss, lambda m, x, y: m(x))), "torch's loss must be a floating scalar, got a"),
        (dict(loss=(flax_loss, lambda m, x, y: 0.0)), "torch's loss must be a floating scalar, got float"),
        (dict(loss=(flax_loss, lambda m, x, y: x.sum())), "torch's loss must depend on a parameter"),
        (dict(wrt=nnx.BatchStat), "wrt must select something to train"),
    ],
)  # fmt: skip
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), **{"steps": 2, **options})


def test_bad_optimizers():
    stranger = torch.optim.AdamW(theirs().parameters(), lr=0.01)
    with pytest.raises(ValueError, match="4 of which are not the module's"):
        train(ours.adamw(0.01), stranger)
    with pytest.raises(ValueError, match="torch's optimizer must be"):
        train(ours.adamw(0.01), lambda params: None)
    scheduler = torch.optim.lr_scheduler
    pair = stranger, scheduler.StepLR(stranger, 3)
    with pytest.raises(ValueError, match="function that takes parameters and returns it and its scheduler"):
        train(ours.adamw(0.01), pair)
    with pytest.raises(ValueError, match=r"has a scheduler .* which would be lost"):
        train(ours.adamw(0.01), stranger)
    with pytest.raises(ValueError, match="ReduceLROnPlateau, which goes by a metric"):
        train(ours.adamw(0.01), built(torch.optim.AdamW, scheduler.ReduceLROnPlateau, lr=0.01))
    stranger = torch.optim.AdamW(theirs().parameters(), lr=0.01)
    with pytest.raises(ValueError, match=re.escape("optimizer[0] must be an optax transformation")):
        train(torch.optim.AdamW, stranger)
