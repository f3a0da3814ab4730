"""Injected mutations of a training: each is found in its step, and as what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attn.optim as ours
from parity_tests.parity.training.training_pairs import (
    Flax,
    built,
    clip,
    draw_batches,
    first,
    flax_loss,
    theirs,
    torch_loss,
    train,
)

ADAMW = built(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


@pytest.mark.slow
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
        (ours.sgd(0.1, 0.9), torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.1), 1, "momentum_buffer"),
        pytest.param(
            ours.sgd(0.1, 0.9), torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True), 0, "update",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            optax.rmsprop(0.01), torch.optim.RMSprop, dict(lr=0.01), 0, "square_avg", marks=pytest.mark.slow
        ),
        pytest.param(optax.adagrad(0.1), torch.optim.Adagrad, dict(lr=0.1), 0, "sum", marks=pytest.mark.slow),
        pytest.param(optax.nadam(0.01), torch.optim.NAdam, dict(lr=0.01), 0, "update", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_an_optimizer_with_other_settings(tx, kind, arguments, step, quantity):
    assert first(train(tx, built(kind, **arguments), steps=4))[:2] == (step, quantity)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
