import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jax_attn.optim as ours
from jax_attn.parity import lint_optimizer


def built(kind, scheduler=None, **arguments):
    def build(params):
        optimizer = kind(params, **arguments)
        return optimizer if scheduler is None else (optimizer, scheduler(optimizer))

    return build


def found(tx, build, **options):
    """The findings as a dict."""
    return {f.setting: (f.flax, f.torch) for f in lint_optimizer(tx, build, **options)}


OPTIMIZERS = [
    (ours.sgd, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)),
    (ours.sgd, torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3, maximize=True)),
    (ours.rmsprop, torch.optim.RMSprop, dict(momentum=0.9, centered=True, eps=1e-3)),
    (ours.adagrad, torch.optim.Adagrad, dict(lr_decay=0.1, initial_accumulator_value=0.3)),
    (ours.adam, torch.optim.Adam, dict(weight_decay=0.1, amsgrad=True)),
    (ours.adamw, torch.optim.AdamW, dict(betas=(0.8, 0.95))),
    (ours.nadam, torch.optim.NAdam, dict(weight_decay=0.1, decoupled_weight_decay=True)),
    (ours.radam, torch.optim.RAdam, dict(betas=(0.9, 0.9))),
]


@pytest.mark.parametrize(("own", "kind", "arguments"), OPTIMIZERS)
def test_nothing_is_found_where_nothing_differs(own, kind, arguments):
    assert lint_optimizer(own(**arguments), built(kind, **arguments)) == []
    scheduled = built(kind, lambda o: torch.optim.lr_scheduler.LinearLR(o), **{**arguments, "lr": 0.1})
    tx = optax.chain(ours.clip_grad_norm(2.0), own(**{**arguments, "lr": ours.linear_lr(0.1)}))
    clip = (None, lambda params: torch.nn.utils.clip_grad_norm_(params, 2.0))
    assert lint_optimizer(tx, scheduled, clip=clip) == []


ADAM = dict(lr=1e-3)
ADAMW = dict(lr=1e-3, weight_decay=0.1)
SGD = dict(lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("tx", "kind", "arguments", "expected"),
    [
        (optax.adamw(1e-3), torch.optim.AdamW, ADAM, {"weight_decay": (1e-4, 0.01)}),
        (
            ours.adamw(2e-3, (0.85, 0.97), 1e-7, 0.03), torch.optim.AdamW, ADAM,
            {
                "betas": ((0.85, 0.97), (0.9, 0.999)), "eps": (1e-7, 1e-8), "weight_decay": (0.03, 0.01),
                "learning rate": (2e-3, 1e-3),
            },
        ),
        (
            ours.adam(1e-3, weight_decay=0.013), torch.optim.Adam, dict(lr=1e-3, weight_decay=0.01),
            {"weight_decay": (0.013, 0.01)},
        ),
        (
            optax.chain(optax.scale(-1.0), ours.adam(1e-3)), torch.optim.Adam, ADAM,
            {"maximize": (True, False)},
        ),
        (
            ours.rmsprop(alpha=0.93, momentum=0.3), torch.optim.RMSprop, {},
            {"alpha": (0.93, 0.99), "momentum": (0.3, 0.0)},
        ),
        (optax.adamw(1e-3, weight_decay=0.0123), torch.optim.AdamW, ADAM, {"weight_decay": (0.0123, 0.01)}),
        (
            optax.adamw(1e-3, eps=1e-6), torch.optim.AdamW, ADAM,
            {"weight_decay": (1e-4, 0.01), "eps": (1e-6, 1e-8)},
        ),
        (optax.adam(1e-3), torch.optim.AdamW, ADAMW, {"weight_decay": (0.0, 0.1)}),
        pytest.param(
            ours.adam(1e-3, weight_decay=0.1), torch.optim.AdamW, ADAMW, {"decoupled": (False, True)},
            marks=pytest.mark.slow,
        ),
        (ours.adamw(**ADAMW), torch.optim.Adam, ADAMW, {"decoupled": (True, False)}),
        (ours.adam(2e-3), torch.optim.Adam, ADAM, {"learning rate": (2e-3, 1e-3)}),
        (ours.adam(1e-3, (0.9, 0.98)), torch.optim.Adam, ADAM, {"betas": ((0.9, 0.98), (0.9, 0.999))}),
        (ours.adam(1e-3, eps=1e-5), torch.optim.Adam, ADAM, {"eps": (1e-5, 1e-8)}),
        pytest.param(
            optax.adam(1e-3, eps=0.0, eps_root=1e-8), torch.optim.Adam, ADAM,
            {"eps": (0.0, 1e-8), "eps_root": (1e-8, 0.0)},
            marks=pytest.mark.slow,
        ),
        (optax.nadam(1e-3), torch.optim.Adam, ADAM, {"nesterov": (True, False)}),
        pytest.param(
            optax.nadam(2e-3), torch.optim.NAdam, {}, {"kind": ("adam", "nadam"), "nesterov": (True, False)},
            marks=pytest.mark.slow,
        ),
        (
            optax.adamw(1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
            torch.optim.AdamW, ADAMW, {"decayed": ((False, True), (True, True))},
        ),
        (ours.sgd(0.1, 0.9), torch.optim.SGD, dict(SGD, nesterov=True), {"nesterov": (False, True)}),
        (ours.sgd(0.1, 0.9), torch.optim.SGD, dict(SGD, dampening=0.3), {"dampening": (0.0, 0.3)}),
        (ours.sgd(0.1), torch.optim.SGD, SGD, {"momentum": (0.0, 0.9)}),
        (
            optax.rmsprop(0.01), torch.optim.RMSprop, {},
            {"alpha": (0.9, 0.99), "eps": (0.0, 1e-8), "eps_root": (1e-8, 0.0)},
        ),
        (
            optax.adagrad(0.01), torch.optim.Adagrad, {},
            {"initial_accumulator_value": (0.1000001, 0.0)},  # its eps of 1e-7 is within the root, as the sum
        ),
        pytest.param(
            optax.chain(optax.scale_by_adam(eps=1e-8), optax.scale_by_trust_ratio(), optax.scale(-1e-3)),
            torch.optim.Adam, ADAM, {"unknown"},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_setting_that_differs_is_named_with_both_values(tx, kind, arguments, expected):
    differing = found(tx, built(kind, **arguments))
    assert differing.keys() == set(expected)
    if isinstance(expected, dict):
        assert differing == expected


def test_without_correction_of_the_bias():
    def init(params):
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grads)
        return jax.tree.map(lambda m, v: -1e-3 * m / (jnp.sqrt(v) + 1e-8), m, v), (m, v)

    tx = optax.GradientTransformation(init, update)
    assert found(tx, built(torch.optim.Adam, **ADAM)) == {"corrected": (False, True)}


BETA = 0.83


class ByHand:
    """Adam as somebody writes it: one number in an attribute, one in the code, one a constant of the module."""

    def __init__(self):
        self.eps = 1e-6

    def init(self, params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, zeros, 0

    @jax.jit
    def moments(m, v, g):
        return BETA * m + (1 - BETA) * g, 0.97 * v + (1 - 0.97) * g * g

    def update(self, grads, state, params=None):
        *before, t = state
        pairs = jax.tree.map(ByHand.moments, *before, grads)
        m, v = (jax.tree.map(lambda g, pair, i=i: pair[i], grads, pairs) for i in (0, 1))
        c1, c2 = 1 - BETA ** (t + 1), 1 - 0.97 ** (t + 1)
        return jax.tree.map(lambda m, v: -2e-3 * m / c1 / (jnp.sqrt(v / c2) + self.eps), m, v), (m, v, t + 1)


def test_the_numbers_of_a_chain_are_read_wherever_they_stand():
    by_hand = ByHand()
    tx = optax.GradientTransformation(by_hand.init, by_hand.update)
    assert found(tx, built(torch.optim.Adam, **ADAM)) == {
        "betas": ((0.83, 0.97), (0.9, 0.999)), "eps": (1e-6, 1e-8), "learning rate": (2e-3, 1e-3),
    }  # fmt: skip
    injected = optax.inject_hyperparams(optax.adam)(1e-3, b1=0.87)
    assert found(injected, built(torch.optim.Adam, **ADAM)) == {"betas": ((0.87, 0.999), (0.9, 0.999))}


def test_clipping():
    theirs = (None, lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0))
    build = built(torch.optim.SGD, lr=0.1)
    own = ours.sgd(0.1)
    assert found(own, build, clip=theirs) == {"max_norm": (np.inf, 1.0)}
    clipped = optax.chain(ours.clip_grad_norm(0.5), own)
    assert found(clipped, build, clip=theirs) == {"max_norm": (0.5, 1.0)}
    assert found(clipped, build) == {"max_norm": (0.5, np.inf)}
    by_optax = (optax.clip_by_global_norm(1.0), theirs[1])
    assert found(own, build, clip=by_optax) == {"norm_eps": (0.0, 1e-6)}
    rarely = ours.clip_grad_norm(10.0), lambda params: torch.nn.utils.clip_grad_norm_(params, 1e3)
    assert found(own, build, clip=rarely) == {"max_norm": (10.0, 1e3)}
    adamw = built(torch.optim.AdamW, **ADAM)
    clipped = optax.chain(ours.clip_grad_norm(0.37), ours.adamw(**ADAM))
    assert found(clipped, adamw, clip=theirs) == {"max_norm": (0.37, 1.0)}


def test_schedules():
    warm = built(
        torch.optim.AdamW,
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 5)),
        **ADAMW,
    )

    def report(schedule):
        return found(ours.adamw(schedule, weight_decay=0.1), warm)

    schedule = ours.linear_warmup(1e-3, 5)
    assert report(schedule) == {}
    assert report(lambda step: schedule(step + 1))["learning rate"][0].startswith("one step ahead")
    assert report(lambda step: schedule(step - 1))["learning rate"][0].startswith("one step behind")
    assert report(ours.linear_warmup(1e-3, 4)) == {"learning rate of step 1": (2.5e-4, 2e-4)}
    later = {"learning rate of step 7": (0.0010001, 1e-3)}
    assert report(lambda step: schedule(step) * jnp.where(step < 7, 1.0, 1.0001)) == later


def test_groups_and_names():
    params = {"scale": np.ones(3), "kernel": np.ones((2, 3))}  # torch gets them sorted: kernel, scale

    def build(tensors):
        kernel, scale = tensors
        groups = [{"params": [kernel]}, {"params": [scale], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, **ADAMW)

    masked = ours.adamw(1e-3, weight_decay=0.0), {"kernel": True, "scale": False}
    tx = optax.adamw(1e-3, weight_decay=0.1, mask=masked[1])
    assert found(tx, build, params=params) == {}
    assert found(ours.adamw(**ADAMW), build, params=params) == {"decayed": ((True, True), (True, False))}
    module = torch.nn.Linear(2, 3)
    assert found(ours.adamw(**ADAMW), torch.optim.AdamW(module.parameters(), **ADAMW)) == {}
    several = [{"params": [module.weight]}, {"params": [module.bias], "weight_decay": 0.0}]
    with pytest.raises(ValueError, match="must be a function that takes parameters, or have one group"):
        lint_optimizer(tx, torch.optim.AdamW(several))


def test_what_torch_does_that_is_not_known_here():
    (finding,) = lint_optimizer(ours.adam(), built(torch.optim.Adadelta))
    assert str(finding).startswith("unknown: flax other updates, torch Adadelta, or its groups")


TWO_RATES = optax.partition(
    {"kernel": ours.adamw(1e-3), "bias": ours.adamw(2e-3)}, {"kernel": "kernel", "bias": "bias"}
)


def with_two_rates(tensors):
    bias, kernel = tensors
    return torch.optim.AdamW([{"params": [kernel], "lr": 1e-3}, {"params": [bias], "lr": 2e-3}])


@pytest.mark.parametrize(
    ("tx", "build", "clip"),
    [
        (optax.adadelta(1.0, rho=0.9, eps=1e-6), built(torch.optim.Adadelta), None),
        (optax.adamax(0.1), built(torch.optim.Adamax, lr=0.1), None),
        (TWO_RATES, with_two_rates, None),
        (
            optax.chain(ours.clip_grad_value(0.1), ours.adamw(**ADAMW)), built(torch.optim.AdamW, **ADAMW),
            lambda params: torch.nn.utils.clip_grad_value_(params, 0.1),
        ),
        (
            optax.chain(ours.clip_grad_norm(0.1, 1.0), ours.sgd(0.1)), built(torch.optim.SGD, lr=0.1),
            lambda params: torch.nn.utils.clip_grad_norm_(params, 0.1, 1.0),
        ),
        (
            ours.sgd(ours.one_cycle_lr(0.1, 20), momentum=ours.one_cycle_momentum(20)),
            built(torch.optim.SGD, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20), **SGD), None,
        ),
        (ours.radam(0.1, (0.9, 0.99999)), built(torch.optim.RAdam, lr=0.1, betas=(0.9, 0.99999)), None),
    ],
)  # fmt: skip
def test_nothing_is_found_where_what_is_not_known_here_does_the_same(tx, build, clip):
    assert lint_optimizer(tx, build, clip=(None, clip)) == []
    assert lint_optimizer(optax.chain(tx, optax.scale(1.0001)), build, clip=(None, clip)) != []


def test_what_is_no_optimizer():
    made = torch.optim.Adam(torch.nn.Linear(2, 3).parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(made, 3)
    with pytest.raises(ValueError, match="function that takes parameters and returns it and its scheduler"):
        lint_optimizer(ours.adam(), (made, scheduler))
    with pytest.raises(ValueError, match=r"has a scheduler .* which would be lost"):
        lint_optimizer(ours.adam(), made)
    with pytest.raises(ValueError, match="ReduceLROnPlateau, which goes by a metric"):
        lint_optimizer(ours.adam(), built(torch.optim.Adam, torch.optim.lr_scheduler.ReduceLROnPlateau))
    with pytest.raises(ValueError, match="params must be a flat dict of arrays, got a dict in layer"):
        lint_optimizer(ours.adam(), built(torch.optim.Adam), {"layer": {"kernel": np.ones(2)}})
