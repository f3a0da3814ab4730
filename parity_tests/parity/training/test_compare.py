"""Trainings that are the same pass."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attn.optim as ours
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.parity.training.compare import compare_training
from parity_tests.parity.training.training_pairs import (
    CLASSES,
    EXACT,
    NAMES,
    STEPS,
    WIDTH,
    Flax,
    Normed,
    built,
    clip,
    first,
    theirs,
    train,
)
from torch_ref.models.sequence_classifier import SequenceClassifier as TorchSequenceClassifier

OPTIMIZERS = {
    "sgd": (ours.sgd, torch.optim.SGD, dict(lr=0.1)),
    "sgd dampening": (ours.sgd, torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3)),
    "sgd nesterov": (
        ours.sgd, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    ),
    "rmsprop": (ours.rmsprop, torch.optim.RMSprop, dict(lr=0.01, momentum=0.9)),
    "adagrad": (ours.adagrad, torch.optim.Adagrad, dict(lr=0.1, initial_accumulator_value=0.1)),
    "adam": (ours.adam, torch.optim.Adam, dict(lr=0.01, weight_decay=0.1, amsgrad=True)),
    "adamw": (ours.adamw, torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1)),
    "nadam": (ours.nadam, torch.optim.NAdam, dict(lr=0.01)),
    "radam": (ours.radam, torch.optim.RAdam, dict(lr=0.01, betas=(0.9, 0.9))),
}  # fmt: skip


# The others are trained without any mutation in test_power.
FEW = ("adamw",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in OPTIMIZERS]
)
def test_every_optimizer_passes_with_schedule_and_clipping(name: str):
    own, kind, arguments = OPTIMIZERS[name]
    schedule = ours.linear_lr(arguments["lr"], total_iters=7)
    scheduled = built(kind, lambda o: torch.optim.lr_scheduler.LinearLR(o, total_iters=7), **arguments)
    report = train(own(**{**arguments, "lr": schedule}), scheduled, clip=clip(), steps=STEPS)
    report.assert_passed()
    assert len([d for d in report.deviations if d.quantity == "update"]) == STEPS * 4
    assert {"loss", "gradient", "clipped gradient", "drift"} <= {d.quantity for d in report.deviations}
    moments = {d.quantity for d in report.deviations} & {"momentum_buffer", "sum", "exp_avg_sq", "square_avg"}
    assert moments or name == "sgd"
    assert [entry.name for entry in report.left_out] == ["learning rate"]
    assert report.steps[0].rate == (None, pytest.approx(arguments["lr"] / 3))


@pytest.mark.slow
def test_both_lanes():
    report = train(
        ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), lanes=("float64", "float32"), steps=STEPS
    )
    report.assert_passed()
    assert [(row.lane, row.step) for row in report.steps] == [
        (lane, step) for lane in ("float64", "float32") for step in range(STEPS)
    ]
    pooled = [d for d in report.deviations if d.lane == "float32"]
    assert [d.quantity for d in pooled] == ["loss", "gradient", "update"]
    assert all(0 < d.error <= 2 for d in pooled)
    text = str(report)
    assert "passed" in text
    assert "rounding alone" in text
    assert "noise ratio" in text
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["passed"]
    assert data["compared"] == len(report.deviations)
    assert data["first_divergence"] is None


@pytest.mark.slow
def test_float32_that_is_noisier_than_torch():
    """optax corrects the moments' bias in float32, where that leaves few digits of the first steps."""
    wide = optax.adam(0.3, b2=0.99999), built(torch.optim.Adam, lr=0.3, betas=(0.9, 0.99999))
    report = train(*wide, lanes=("float64", "float32"))
    assert {(d.lane, d.step) for d in report.failures} == {("float32", -1)}
    assert "the same mathematics, computed less precisely" in str(report)
    assert len(report.steps) == 12
    train(ours.adam(0.3, (0.9, 0.99999)), wide[1], lanes=("float64", "float32")).assert_passed()


def test_optax_under_its_own_names():
    report = train(optax.adamw(0.01, weight_decay=0.01), built(torch.optim.AdamW, lr=0.01))
    report.assert_passed()
    assert {"exp_avg", "exp_avg_sq"} <= {d.quantity for d in report.deviations}
    report = train(optax.sgd(0.1, momentum=0.9), built(torch.optim.SGD, lr=0.1, momentum=0.9))
    report.assert_passed()
    assert "momentum_buffer" in {d.quantity for d in report.deviations}


def test_a_moment_that_is_kept_in_another_way_is_left_out():
    """optax's RMSprop has its momentum after the learning rate, torch before: the updates agree."""
    tx = optax.rmsprop(0.01, decay=0.99, eps=1e-8, eps_in_sqrt=False, momentum=0.9)
    report = train(tx, built(torch.optim.RMSprop, lr=0.01, momentum=0.9))
    report.assert_passed()
    assert "momentum_buffer" not in {d.quantity for d in report.deviations}
    assert "momentum_buffer" in {entry.name for entry in report.left_out}


def test_a_rate_that_the_state_tells():
    tx = optax.inject_hyperparams(ours.adamw)(lr=ours.step_lr(0.01, 3))
    scheduled = built(torch.optim.AdamW, lambda o: torch.optim.lr_scheduler.StepLR(o, 3), lr=0.01)
    report = train(tx, scheduled)
    report.assert_passed()
    assert report.steps[4].rate == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert not report.left_out


def test_parameter_groups_and_partitions():
    def build(params):
        groups = [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim == 1]},
        ]
        groups[1].update(weight_decay=0.0, lr=0.02)
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)

    def label(params):
        return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)

    parts = {"matrix": ours.adamw(0.01, weight_decay=0.1), "vector": ours.adamw(0.02, weight_decay=0.0)}
    report = train(optax.partition(parts, label), build)
    report.assert_passed()
    assert len([d for d in report.deviations if d.quantity == "exp_avg"]) == 6 * 4
    assert not train(ours.adamw(0.01, weight_decay=0.1), build, steps=1).passed


def test_the_groups_of_an_optimizer_that_exists_keep_their_settings():
    """Both groups differ from the optimizer's defaults, and from each other."""
    module = theirs()
    groups = [
        {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": 0.1, "betas": (0.8, 0.9)},
        {"params": [p for p in module.parameters() if p.ndim == 1], "weight_decay": 0.0, "lr": 0.02},
    ]
    parts = {
        "matrix": ours.adamw(0.01, (0.8, 0.9), weight_decay=0.1),
        "vector": ours.adamw(0.02, weight_decay=0.0),
    }

    def label(params):
        return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)

    optimizer = torch.optim.AdamW(groups, lr=0.01)
    train(optax.partition(parts, label), optimizer, torch=module).assert_passed()


def test_an_optimizer_that_exists_is_built_anew_and_left_alone():
    module = theirs()
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.1, lr_decay=0.1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    train(ours.adagrad(0.1, lr_decay=0.1), optimizer, torch=module).assert_passed()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(state["step"] == 0 for state in optimizer.state.values())


@pytest.mark.slow
def test_dropout_is_shared_while_training():
    build = built(torch.optim.AdamW, lr=0.01)
    plain = train(ours.adamw(0.01), build, steps=5, training=False)
    dropped = train(ours.adamw(0.01), build, steps=5, lanes=("float64", "float32"))
    dropped.assert_passed()
    assert plain.steps[0].loss[1] != dropped.steps[0].loss[1]
    flax = Flax(nnx.Rngs(0))
    flax.dropout.rate = 0.3
    report = train(ours.adamw(0.01), build, steps=5, flax=flax)
    assert first(report) == (0, "run", "")
    assert "the rate is 0.3 in flax, 0.25 in torch" in str(report)
    assert "training=False compares the rest without dropout" in str(report)


def test_running_statistics():
    """flax keeps the biased variance, torch the unbiased one; only what is left at the end is another."""
    module = theirs()
    module[2] = torch.nn.BatchNorm1d(WIDTH)
    options = dict(torch=module, names=(*NAMES, (r"^norm\.", "2.")))
    build = built(torch.optim.AdamW, lr=0.01)
    report = train(ours.adamw(0.01), build, flax=Normed(nnx.Rngs(0)), **options)
    assert first(report) == (0, "buffer", "2.running_var")
    assert {d.parameter for d in report.failures} == {"2.running_var"}
    assert "nnx.BatchNorm keeps the biased variance" in str(report)
    report = train(ours.adamw(0.01), build, flax=Normed(nnx.Rngs(0), 0.99), **options)
    assert {d.parameter for d in report.failures} == {"2.running_mean", "2.running_var"}


@pytest.mark.slow
def test_what_evaluation_leaves_out_is_told():
    """A batch norm that never looks at the batch passes in evaluation mode, and is told of."""

    class Frozen(Normed):
        def __call__(self, x):
            return self.last(self.norm(jnp.tanh(self.first(x)), use_running_average=True))

    module = theirs()
    module[2] = torch.nn.BatchNorm1d(WIDTH)
    options = dict(flax=Frozen(nnx.Rngs(0)), torch=module, names=(*NAMES, (r"^norm\.", "2.")), steps=2)
    build = built(torch.optim.AdamW, lr=0.01)
    assert first(train(ours.adamw(0.01), build, **options))[:2] == (0, "loss")
    report = train(ours.adamw(0.01), build, training=False, **options)
    report.assert_passed()
    told = {entry.name: entry.reason for entry in report.left_out}
    assert told["training mode"].endswith("running statistics while training")
    told = train(ours.adamw(0.01), build, training=False, steps=1).left_out
    assert "dropout while training" in {entry.name: entry.reason for entry in told}["training mode"]
    plain = torch.nn.Linear(WIDTH, CLASSES), nnx.Linear(WIDTH, CLASSES, rngs=nnx.Rngs(0))
    report = train(ours.adamw(0.01), build, torch=plain[0], flax=plain[1], names=(), training=False, steps=1)
    assert "training mode" not in {entry.name for entry in report.left_out}


def test_a_loop_that_is_traced_once_draws_in_every_turn():
    class Looped(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.dropout = nnx.Dropout(0.25, rngs=rngs)

        def __call__(self, x):
            for _ in range(2):
                x = self.dropout(self.layer(x))
            return x

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            for _ in range(2):
                x = torch.nn.functional.dropout(self.layer(x), 0.25, self.training)
            return x

    options = dict(flax=Looped(nnx.Rngs(0)), torch=Turned(), names=(), steps=2)
    train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), **options).assert_passed()


def test_projections_that_torch_keeps_as_one_and_a_shared_module():
    def attend(query, key, value, **options):
        weights = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", query, key) / query.shape[-1] ** 0.5)
        return jnp.einsum("bnqk,bknh->bqnh", weights, value)

    loss = (
        lambda m, x: jnp.mean((m(x) - 1) ** 2),
        lambda m, x: ((m(x, x, x, need_weights=False)[0] - 1) ** 2).mean(),
    )
    batches = [(np.random.default_rng(0).standard_normal((2, 5, 6)),)]
    flax = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0), attention_fn=attend)
    module = torch.nn.MultiheadAttention(6, 2, batch_first=True)
    build = built(torch.optim.AdamW, lr=0.01)
    options = dict(flax=flax, torch=module, loss=loss, batches=batches, names=())
    report = train(ours.adamw(0.01), build, **options)
    report.assert_passed()
    keys = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    assert {d.parameter for d in report.deviations if d.quantity == "exp_avg_sq"} == keys

    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.a = self.b = nnx.Linear(6, 6, rngs=rngs)

        def __call__(self, x):
            return self.b(jnp.tanh(self.a(x)))

    twice = torch.nn.Sequential()
    linear = torch.nn.Linear(6, 6)
    twice.a, twice.tanh, twice.b = linear, torch.nn.Tanh(), linear
    loss = (loss[0], lambda m, x: ((m.b(m.tanh(m.a(x))) - 1) ** 2).mean())
    options |= dict(flax=Twice(nnx.Rngs(0)), torch=twice, loss=loss)
    train(ours.adamw(0.01), build, **options).assert_passed()


@pytest.mark.slow
def test_a_model_of_our_own_with_a_scanned_stack():
    shape = dict(
        vocab_size=11, hidden_size=6, num_hidden_layers=2, num_attention_heads=2, intermediate_size=7,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    batches = [
        dict(ids=rng.integers(11, size=(2, 5)), labels=rng.integers(CLASSES, size=2)) for _ in range(3)
    ]
    loss = (
        lambda m, ids, labels: ours.cross_entropy(m(ids), labels),
        lambda m, ids, labels: torch.nn.functional.cross_entropy(m(ids), labels),
    )
    flax = SequenceClassifier(CLASSES, rngs=nnx.Rngs(0), scan=True, **shape)
    schedule = ours.linear_warmup(1e-3, 4)
    report = compare_training(
        flax,
        TorchSequenceClassifier(CLASSES, **shape),
        batches,
        loss,
        (
            optax.chain(ours.clip_grad_norm(1.0), ours.adamw(schedule)),
            built(
                torch.optim.AdamW,
                lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4)),
                lr=1e-3,
            ),
        ),
        6,
        clip=(None, lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0)),
        lanes=EXACT,
    )
    report.assert_passed()
    assert {entry.name for entry in report.left_out} >= {"clipped gradient", "learning rate"}
    assert any(row.drift for row in report.steps)
