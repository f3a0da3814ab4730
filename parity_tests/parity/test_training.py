import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.parity.training import compare_training
from jax_attn.training import torch_like as ours
from torch_ref.models.sequence_classifier import SequenceClassifier as TorchSequenceClassifier

WIDTH, CLASSES, STEPS = 5, 3, 20
EXACT = ("float64",)
NAMES = ((r"^first\.", "0."), (r"^last\.", "3."))


class Flax(nnx.Module):
    """The same as `theirs()`: a square layer, tanh, dropout, and a second layer."""

    def __init__(self, rngs):
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.first(x))))


def theirs():
    torch.manual_seed(0)
    layers = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Dropout(0.25)
    return torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, CLASSES))


def draw_batches(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((4, WIDTH)), rng.integers(CLASSES, size=4)) for _ in range(count)]


def flax_loss(module, x, labels):
    return ours.cross_entropy(module(x), labels)


def torch_loss(module, x, labels):
    return torch.nn.functional.cross_entropy(module(x), labels)


def train(flax_optimizer, torch_optimizer, **options):
    """The comparison of the two small modules, in float64 unless told otherwise."""
    defaults = dict(loss=(flax_loss, torch_loss), batches=draw_batches(), names=NAMES, lanes=EXACT, steps=6)
    options = {**defaults, "flax": Flax(nnx.Rngs(0)), "torch": theirs(), **options}
    optimizer = (flax_optimizer, torch_optimizer)
    return compare_training(options.pop("flax"), options.pop("torch"), optimizer=optimizer, **options)


def clip(norm=0.5):
    return ours.clip_grad_norm(norm), lambda params: torch.nn.utils.clip_grad_norm_(params, norm)


def built(kind, scheduler=None, **arguments):
    def build(params):
        optimizer = kind(params, **arguments)
        return optimizer if scheduler is None else (optimizer, scheduler(optimizer))

    return build


def first(report):
    """Step, quantity and parameter of what differs first."""
    assert not report.passed
    found = report.first_divergence
    return found.step, found.quantity, found.parameter


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


@pytest.mark.parametrize("name", OPTIMIZERS)
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
    assert not train(ours.adamw(0.01, weight_decay=0.1), build).passed


def test_an_optimizer_that_exists_is_built_anew_and_left_alone():
    module = theirs()
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.1, lr_decay=0.1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    train(ours.adagrad(0.1, lr_decay=0.1), optimizer, torch=module).assert_passed()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(state["step"] == 0 for state in optimizer.state.values())


def test_dropout_is_shared_while_training():
    build = built(torch.optim.AdamW, lr=0.01)
    plain = train(ours.adamw(0.01), build, steps=5)
    dropped = train(ours.adamw(0.01), build, steps=5, training=True, lanes=("float64", "float32"))
    dropped.assert_passed()
    assert plain.steps[0].loss[1] != dropped.steps[0].loss[1]
    flax = Flax(nnx.Rngs(0))
    flax.dropout.rate = 0.3
    report = train(ours.adamw(0.01), build, steps=5, training=True, flax=flax)
    assert first(report) == (0, "run", "")
    assert "the rate is 0.3 in flax, 0.25 in torch" in str(report)


class Normed(nnx.Module):
    """`theirs()` with a batch norm in place of dropout."""

    def __init__(self, rngs, momentum=0.9):
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=momentum, epsilon=1e-5, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(jnp.tanh(self.first(x))))


def test_running_statistics():
    """flax keeps the biased variance, torch the unbiased one; training itself does not see it."""
    module = theirs()
    module[2] = torch.nn.BatchNorm1d(WIDTH)
    options = dict(torch=module, names=(*NAMES, (r"^norm\.", "2.")))
    build = built(torch.optim.AdamW, lr=0.01)
    train(ours.adamw(0.01), build, flax=Normed(nnx.Rngs(0)), **options).assert_passed()
    report = train(ours.adamw(0.01), build, flax=Normed(nnx.Rngs(0)), training=True, **options)
    assert first(report) == (0, "buffer", "2.running_var")
    assert {d.parameter for d in report.failures} == {"2.running_var"}
    report = train(ours.adamw(0.01), build, flax=Normed(nnx.Rngs(0), 0.99), training=True, **options)
    assert {d.parameter for d in report.failures} == {"2.running_mean", "2.running_var"}


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
    flax = SequenceClassifier(CLASSES, rngs=nnx.Rngs(0), **shape)
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
        training=True,
        lanes=EXACT,
    )
    report.assert_passed()
    assert {entry.name for entry in report.left_out} >= {"clipped gradient", "learning rate"}
    assert any(row.drift for row in report.steps)


# Planted faults: each is found in its step, and as what it is.

ADAMW = built(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def test_adam_in_place_of_adamw():
    step, quantity, _ = first(train(ours.adam(0.01, weight_decay=0.1), ADAMW))
    assert (step, quantity) in ((0, "exp_avg"), (0, "exp_avg_sq"))
    assert first(train(optax.adam(0.01), ADAMW))[:2] == (0, "update")


@pytest.mark.parametrize(
    ("tx", "kind", "arguments", "step", "quantity"),
    [
        (ours.adamw(0.01, eps=1e-6), torch.optim.AdamW, dict(lr=0.01), 0, "update"),
        (ours.adamw(0.01, betas=(0.9, 0.99)), torch.optim.AdamW, dict(lr=0.01), 0, "exp_avg_sq"),
        (ours.adamw(0.02), torch.optim.AdamW, dict(lr=0.01), 0, "learning rate"),
        (ours.sgd(0.1, 0.9), torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.1), 1, "momentum_buffer"),  # noqa: E501
        (ours.sgd(0.1, 0.9), torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True), 0, "update"),
        (optax.rmsprop(0.01), torch.optim.RMSprop, dict(lr=0.01), 0, "square_avg"),
        (optax.adagrad(0.1), torch.optim.Adagrad, dict(lr=0.1), 0, "sum"),
        (optax.nadam(0.01), torch.optim.NAdam, dict(lr=0.01), 0, "update"),
    ],
)  # fmt: skip
def test_an_optimizer_with_other_settings(tx, kind, arguments, step, quantity):
    assert first(train(tx, built(kind, **arguments), steps=4))[:2] == (step, quantity)


def test_a_schedule_that_is_off_by_one():
    warm = built(
        torch.optim.AdamW,
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 5)),
        lr=0.01,
    )
    schedule = ours.linear_warmup(0.01, 5)
    train(ours.adamw(schedule), warm, steps=8).assert_passed()
    report = train(ours.adamw(lambda step: schedule(step + 1)), warm, steps=8)
    assert first(report) == (0, "learning rate", "")
    assert (report.first_divergence.flax, report.first_divergence.torch) == ("not 0", "0")
    rates = {d.step: (d.flax, d.torch) for d in report.failures if d.quantity == "learning rate"}
    assert rates == {0: ("not 0", "0")} | {k: (f"{(k + 1) / 500:g}", f"{k / 500:g}") for k in range(1, 5)}

    stepped = built(torch.optim.SGD, lambda o: torch.optim.lr_scheduler.StepLR(o, 5), lr=0.1)
    report = train(ours.sgd(ours.step_lr(0.1, 6)), stepped, steps=8)
    assert first(report) == (5, "learning rate", "")
    assert {d.step for d in report.failures} == {5}
    assert (report.first_divergence.flax, report.first_divergence.torch) == ("0.1", "0.01")


@pytest.mark.parametrize("tx", [ours.adamw(0.01, weight_decay=0.1), ours.sgd(0.1)])
def test_clipping_that_is_missing(tx):
    build = ADAMW if tx.init({"a": jnp.zeros(2)})[0] != () else built(torch.optim.SGD, lr=0.1)
    assert first(train(tx, build, clip=(None, clip()[1])))[:2] == (0, "clipped gradient")


def test_clipping_of_another_kind():
    report = train(ours.sgd(0.1), built(torch.optim.SGD, lr=0.1), clip=(clip(0.4)[0], clip()[1]))
    assert first(report)[:2] == (0, "clipped gradient")
    chain = optax.chain(optax.clip_by_global_norm(0.5), ours.sgd(0.1))
    report = train(chain, built(torch.optim.SGD, lr=0.1), clip=(None, clip()[1]))
    assert first(report)[:2] == (0, "clipped gradient")
    assert "flax divides by the norm, torch by the norm + 1e-6" in str(report)


def test_a_sum_in_place_of_a_mean():
    def summed(module, x, labels):
        return ours.cross_entropy(module(x), labels, reduction="sum")

    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), loss=(summed, torch_loss))
    assert first(report) == (0, "loss", "")
    assert not any(d.quantity == "update" for d in report.failures)  # the optimizer is not to blame


def test_a_gradient_that_is_transposed():
    @jax.custom_vjp
    def same(kernel):
        return kernel

    same.defvjp(lambda kernel: (kernel, None), lambda _, gradient: (gradient.T,))

    def turned(module, x, labels):
        module.first.kernel.set_value(same(module.first.kernel.get_value()))
        return flax_loss(module, x, labels)

    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), loss=(turned, torch_loss))
    assert first(report) == (0, "gradient", "0.weight")
    assert {(d.quantity, d.parameter) for d in report.failures} == {("gradient", "0.weight")}


def test_one_batch_that_is_another():
    batches = [(*batch, np.asarray(step)) for step, batch in enumerate(draw_batches(9))]

    def astray(module, x, labels, step):
        return flax_loss(module, jnp.where(step == 7, 1.001 * x, x), labels)

    loss = (astray, lambda module, x, labels, step: torch_loss(module, x, labels))
    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), loss=loss, batches=batches, steps=9)
    assert first(report) == (7, "loss", "")
    assert {d.step for d in report.failures} == {7}  # torch leads: the steps after it are sound
    assert report.steps[-1].drift > 1e-6  # on its own, it does not come back


def test_a_parameter_that_is_frozen_on_one_side():
    def without_last_bias(path, variable):
        return isinstance(variable, nnx.Param) and path != ("last", "bias")

    frozen = theirs()
    frozen[3].bias.requires_grad_(False)
    build = built(torch.optim.AdamW, lr=0.01)
    expected = (0, "update", "3.bias")

    in_flax = train(ours.adamw(0.01), build, wrt=without_last_bias)
    assert first(in_flax) == expected
    assert "not trained in flax" in str(in_flax)
    in_torch = train(ours.adamw(0.01), build, torch=frozen)
    assert first(in_torch) == expected
    assert "requires_grad is False" in str(in_torch)
    forgotten = train(ours.adamw(0.01), lambda params: torch.optim.AdamW(params[:-1], lr=0.01))
    assert first(forgotten) == expected
    assert "left out of torch's optimizer" in str(forgotten)
    for report in (in_flax, in_torch, forgotten):
        assert {(d.quantity, d.parameter) for d in report.failures} == {("update", "3.bias")}

    both = train(ours.adamw(0.01), build, wrt=without_last_bias, torch=frozen)
    both.assert_passed()
    assert "3.bias" not in {d.parameter for d in both.deviations}


def test_a_parameter_without_a_gradient_decays_in_flax_alone():
    """torch passes over a parameter that its loss does not reach; optax sees a gradient of 0, and decays."""

    class Unused(Flax):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.spare = nnx.Linear(2, 3, rngs=rngs)

    module = theirs()
    module.add_module("spare", torch.nn.Linear(2, 3))
    module.forward = lambda x: module[3](module[2](module[1](module[0](x))))
    loss = (flax_loss, lambda m, x, y: torch_loss(m[:4], x, y))
    report = train(ours.adamw(0.01), ADAMW, flax=Unused(nnx.Rngs(0)), torch=module, loss=loss)
    assert first(report)[:2] == (0, "update")
    assert report.first_divergence.parameter.startswith("spare.")
    assert "passes it over" in str(report)


# What must never pass.


def test_a_training_that_moves_nothing_is_no_pass():
    report = train(ours.adamw(0.0), built(torch.optim.AdamW, lr=0.0), steps=2)
    assert not report.passed
    assert "nothing to compare" in str(report)


def test_losses_that_are_nan_are_no_pass():
    x, labels = draw_batches()[0]
    batches = [(np.where(x > 1, np.nan, x), labels)]
    report = train(ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01), batches=batches, steps=2)
    assert first(report) == (0, "loss", "")
    json.dumps(report.to_json(), allow_nan=False)


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
    with pytest.raises(ValueError, match=re.escape("optimizer[0] must be an optax transformation")):
        train(torch.optim.AdamW, stranger)
