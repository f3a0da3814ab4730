"""Every schedule against torch's scheduler, stepped beside an optimizer, past its end too."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs

from jax_attn.optim import schedules as ours
from jax_attn.parity.tolerances import MODULE

STEPS = 50


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def torch_values(build, lr=0.1, steps=STEPS, keys=("lr",)):
    """What the optimizer would use in each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = build(optimizer)
    seen = []
    for _ in range(steps):
        seen.append([optimizer.param_groups[0][key] for key in keys])
        optimizer.step()
        scheduler.step()
    return np.array(seen, dtype=np.float64).T


def values(schedule, steps=STEPS):
    """In one compiled call, with the int32 steps that optax counts in."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)))


def assert_equal(schedule, build, lr=0.1, steps=STEPS):
    (expected,) = torch_values(build, lr, steps)
    given = values(schedule, steps)
    assert given.dtype == np.float64
    np.testing.assert_allclose(given, expected, rtol=0, atol=MODULE * max(1.0, expected.max()))


CASES = {
    "lambda": (ours.lambda_lr(0.1, lambda t: 0.95**t), partial(theirs.LambdaLR, lr_lambda=lambda t: 0.95**t)),
    "lambda that divides": (
        ours.lambda_lr(0.1, lambda t: jnp.minimum(1, (t + 1) / 7)),
        partial(theirs.LambdaLR, lr_lambda=lambda t: min(1, (t + 1) / 7)),
    ),
    "noam": (
        ours.noam_lr(16, 7, 0.1),
        partial(theirs.LambdaLR, lr_lambda=lambda t: 16**-0.5 * min((t + 1) ** -0.5, (t + 1) * 7**-1.5)),
    ),
    "constant": (ours.constant_lr(0.1), theirs.ConstantLR),
    "constant for ever": (
        ours.constant_lr(0.1, 0.5, 0),
        partial(theirs.ConstantLR, factor=0.5, total_iters=0),
    ),
    "constant past the end": (
        ours.constant_lr(0.1, 0.5, 99),
        partial(theirs.ConstantLR, factor=0.5, total_iters=99),
    ),
    "linear": (ours.linear_lr(0.1), theirs.LinearLR),
    "linear down": (
        ours.linear_lr(0.1, 1.0, 0.0, 31),
        partial(theirs.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=31),
    ),
    "linear of no steps": (ours.linear_lr(0.1, total_iters=0), partial(theirs.LinearLR, total_iters=0)),
    "step": (ours.step_lr(0.1, 7), partial(theirs.StepLR, step_size=7)),
    "step up": (ours.step_lr(0.1, 1, 1.01), partial(theirs.StepLR, step_size=1, gamma=1.01)),
    "step by an integer": (
        ours.step_lr(1e-7, 1, 2),
        partial(theirs.StepLR, step_size=1, gamma=2),
        1e-7,
    ),
    "exponential by an integer": (
        ours.exponential_lr(1e-14, 3),
        partial(theirs.ExponentialLR, gamma=3),
        1e-14,
    ),
    "exponential": (ours.exponential_lr(0.1, 0.9), partial(theirs.ExponentialLR, gamma=0.9)),
    "cosine": (ours.cosine_annealing_lr(0.1, 49), partial(theirs.CosineAnnealingLR, T_max=49)),
    "cosine climbs again": (
        ours.cosine_annealing_lr(0.1, 11, 0.01),
        partial(theirs.CosineAnnealingLR, T_max=11, eta_min=0.01),
    ),
    "cosine of one step": (ours.cosine_annealing_lr(0.1, 1), partial(theirs.CosineAnnealingLR, T_max=1)),
    "sequence": (
        ours.sequential_lr(
            [
                ours.linear_lr(0.1, 0.01, 1.0, 5),
                ours.cosine_annealing_lr(0.1, 20),
                ours.constant_lr(0.1, 0.2, 3),
            ],
            [5, 30],
        ),
        lambda o: theirs.SequentialLR(
            o,
            [
                theirs.LinearLR(o, 0.01, 1.0, 5),
                theirs.CosineAnnealingLR(o, 20),
                theirs.ConstantLR(o, 0.2, 3),
            ],
            [5, 30],
        ),
    ),
    "sequence cut short": (
        ours.sequential_lr([ours.linear_lr(0.1, total_iters=20), ours.exponential_lr(0.1, 0.8)], [13]),
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, total_iters=20), theirs.ExponentialLR(o, 0.8)], [13]
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_torch(case):
    assert_equal(*CASES[case])


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize("pct_start", [0.3, 0.01, 0.5])
def test_one_cycle_equals_torch(three_phase, anneal_strategy, pct_start):
    shape = dict(pct_start=pct_start, anneal_strategy=anneal_strategy, three_phase=three_phase)
    build = partial(theirs.OneCycleLR, max_lr=0.3, total_steps=STEPS, **shape)
    lr, momentum = torch_values(build, steps=STEPS, keys=("lr", "momentum"))
    np.testing.assert_allclose(values(ours.one_cycle_lr(0.3, STEPS, **shape)), lr, rtol=0, atol=MODULE)
    np.testing.assert_allclose(values(ours.one_cycle_momentum(STEPS, **shape)), momentum, rtol=0, atol=MODULE)


def test_one_cycle_past_its_end():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], momentum=0.9)
    scheduler = theirs.OneCycleLR(optimizer, 0.3, epochs=2, steps_per_epoch=5)
    schedule = ours.one_cycle_lr(0.3, epochs=2, steps_per_epoch=5)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(schedule(10), optimizer.param_groups[0]["lr"], rtol=MODULE)
    with pytest.raises(ValueError, match="Tried to step"):
        scheduler.step()
    np.testing.assert_allclose(schedule(11), 0.3 / 25.0 / 1e4, rtol=MODULE)


@given(
    lr=st.floats(1e-5, 1.0),
    start=st.floats(0.05, 1.0),
    end=st.floats(0.0, 1.0),
    total=st.integers(1, 60),
    eta_min=st.floats(0.0, 1e-3),
)
def test_any_arguments_equal_torch(lr, start, end, total, eta_min):
    assert_equal(
        ours.linear_lr(lr, start, end, total),
        lambda o: theirs.LinearLR(o, start, end, total),
        lr,
    )
    assert_equal(
        ours.cosine_annealing_lr(lr, total, eta_min),
        lambda o: theirs.CosineAnnealingLR(o, total, eta_min),
        lr,
    )


@pytest.mark.parametrize(("warmup", "training"), [(7, 40), (0, 40), (10, None), (0, None), (50, 50)])
def test_linear_warmup_equals_transformers(warmup, training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.optimization import (
            get_constant_schedule_with_warmup,
            get_linear_schedule_with_warmup,
        )
    if training is None:
        build = partial(get_constant_schedule_with_warmup, num_warmup_steps=warmup)
    else:
        build = partial(get_linear_schedule_with_warmup, num_warmup_steps=warmup, num_training_steps=training)
    assert_equal(ours.linear_warmup(0.1, warmup, training), build)


def test_optax_schedules_of_the_same_name_are_others():
    (cosine,) = torch_values(partial(theirs.CosineAnnealingLR, T_max=20))
    assert np.max(np.abs(values(optax.cosine_decay_schedule(0.1, 20)) - cosine)) > 0.05
    (cycle,) = torch_values(partial(theirs.OneCycleLR, max_lr=0.1, total_steps=STEPS))
    assert np.max(np.abs(values(optax.cosine_onecycle_schedule(STEPS, 0.1)) - cycle)) > 1e-4


@pytest.mark.parametrize("steps", [jnp.uint32, jnp.int32, jnp.int64, int])
@pytest.mark.parametrize("case", ["linear", "cosine climbs again", "step", "sequence"])
def test_steps_of_any_integer_type(case, steps):
    schedule, build = CASES[case]
    (expected,) = torch_values(build)
    np.testing.assert_allclose([schedule(steps(t)) for t in (0, 4, 31)], expected[[0, 4, 31]], atol=MODULE)


def test_what_torch_has_in_another_place_is_given_by_name():
    """torch's eighth argument is `cycle_momentum`: taken by place, it would be the `div_factor`."""
    with pytest.raises(TypeError):
        ours.one_cycle_lr(0.1, 10, None, None, 0.3, "cos", False)
    with pytest.raises(TypeError):
        ours.one_cycle_momentum(10, None, None, 0.3, "cos", True)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ours.linear_lr(0.1, start_factor=0.0), "start_factor"),
        (lambda: ours.linear_lr(0.1, end_factor=1.5), "end_factor"),
        (lambda: ours.constant_lr(0.1, factor=-0.5), "factor"),
        (lambda: ours.step_lr(0.1, 0), "step_size"),
        (lambda: ours.cosine_annealing_lr(0.1, 0), "T_max"),
        (lambda: ours.one_cycle_lr(0.1), "total_steps"),
        (lambda: ours.one_cycle_lr(0.1, epochs=3), "steps_per_epoch"),
        (lambda: ours.one_cycle_lr(0.1, 2.5), "total_steps"),
        (lambda: ours.one_cycle_lr(0.1, epochs=2, steps_per_epoch=0), "steps_per_epoch"),
        (lambda: ours.one_cycle_lr(0.1, 10, pct_start=1.5), "pct_start"),
        (lambda: ours.one_cycle_lr(0.1, 10, pct_start=1), "pct_start"),
        (lambda: ours.one_cycle_lr(0.1, 10, pct_start=0.1), "pct_start"),
        (lambda: ours.one_cycle_lr(0.1, 10, anneal_strategy="cosine"), "anneal_strategy"),
        (lambda: ours.sequential_lr([], []), "milestones"),
        (lambda: ours.sequential_lr([ours.linear_lr(0.1)], [5]), "milestones"),
    ],
)
def test_bad_arguments_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()
