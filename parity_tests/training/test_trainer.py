"""A step of training: the same in both frameworks, however it is computed."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from jax_attn.models import Part, SequenceClassifier
from jax_attn.optim import cross_entropy
from jax_attn.training import Task, TrainingOptions, fit
from jax_attn.training.making import make_trainers
from parity_tests.training import tiny

CLASSES, VOCABULARY, ROWS, TOKENS = 3, 23, 12, 7


def task(dropout: float = 0.0, **further: Any) -> Task:
    """A classifier of one layer, with its losses in both frameworks."""
    model = Part(
        SequenceClassifier,
        num_classes=CLASSES,
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=TOKENS,
        classifier_dropout=dropout,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    return Task(model, loss, torch_loss, **further)


def loss(model: Any, batch: Any) -> Any:
    logits = model(batch["input_ids"], batch["mask"])
    each = cross_entropy(logits, batch["labels"], reduction="none")
    return (each * batch["weight"]).sum(), batch["weight"].sum()


def torch_loss(model: Any, batch: Any) -> Any:
    import torch

    logits = model(batch["input_ids"], batch["mask"])
    each = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    return (each * batch["weight"]).sum(), batch["weight"].sum()


class Batches:
    """Rows drawn at random, by the number of the batch; rows count for more or less."""

    def __init__(self, rows: int = ROWS):
        self.rows = rows

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng([7, step])
        ids = random.integers(0, VOCABULARY, (self.rows, TOKENS))
        mask = np.arange(TOKENS) < random.integers(2, TOKENS + 1, (self.rows, 1))
        weight = random.integers(0, 4, self.rows).astype(np.float64)
        return {"input_ids": ids, "mask": mask, "labels": ids[:, 0] % CLASSES, "weight": weight}


def options(**changed: Any) -> TrainingOptions:
    return TrainingOptions(**{"steps": 100, "batch_size": ROWS, "dtype": "float64", **changed})


def test_frameworks_coincide():
    """The losses fall, and those of the twin are the same to 1e-8 over 100 steps, with all that a step can have."""
    settings = options(framework="both", accumulate=3, max_grad_norm=0.5, ema=0.9, weight_decay=0.1)
    result = fit(task(dropout=0.1), Batches(), settings, [Batches()[1000]])
    losses = {name: np.array(each) for name, each in result.losses.items()}
    assert losses["jax"][-10:].mean() < 0.9 * losses["jax"][:10].mean()
    np.testing.assert_allclose(losses["jax"], losses["torch"], rtol=0, atol=1e-8)
    assert result.figures["jax"]["loss"] == pytest.approx(result.figures["torch"]["loss"], abs=1e-8)


@pytest.mark.slow
def test_accumulating_changes_nothing():
    """Parts of a batch add up to the batch: parameters after steps with real weights differ by 1e-12 at most."""
    with jax.enable_x64(True):
        states = []
        for accumulate in (1, 4):
            trainer = make_trainers(task(), options(accumulate=accumulate, max_grad_norm=0.3))["jax"]
            for step in range(3):
                trainer.step(Batches()[step])
            states.append(trainer.state.params)
        for name, array in states[0].items():
            np.testing.assert_allclose(states[1][name], array, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_the_state_is_donated():
    """Each new state takes the memory of the old one, all of it."""
    trainer = make_trainers(task(), options(dtype="float32", ema=0.9))["jax"]
    before, pointers = trainer.state, {each.unsafe_buffer_pointer() for each in trainer.state.params.values()}
    trainer.step({**Batches()[0], "weight": np.ones(ROWS, np.float32)})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert {each.unsafe_buffer_pointer() for each in trainer.state.params.values()} == pointers


def test_flops_of_a_step():
    """Three products for each weight, but for the first layer, whose input needs no gradient."""
    trainer = make_trainers(tiny.task(), tiny.options())["jax"]
    first, second = tiny.WIDTH * 32, 32 * tiny.CLASSES
    assert trainer.flops(tiny.Batches()[0]) == 2 * 16 * (2 * first + 3 * second)


def test_an_optimizer_of_ones_own():
    """It gets the learning rate by step, and stands in for AdamW; torch has no counterpart."""
    own = tiny.task(optimizer=optax.sgd)
    settings = tiny.options(ema=None, max_grad_norm=None, schedule="constant", warmup=0.0)
    trainer = make_trainers(own, settings)["jax"]
    before = jax.tree.map(np.asarray, trainer.state.params)
    norm = float(trainer.step(tiny.Batches()[0]).grad_norm)
    moved = [trainer.state.params[name] - before[name] for name in before]
    assert np.sqrt(sum((x**2).sum() for x in moved)) == pytest.approx(0.01 * norm, rel=1e-4)
    with pytest.raises(ValueError, match="no counterpart of the optimizer"):
        make_trainers(own, tiny.options(framework="both"))
