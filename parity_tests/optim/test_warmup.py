"""Every schedule against transformers' own, stepped beside an optimizer."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jax_attn.optim import noam_lr, warmup_schedule
from jax_attn.parity.tolerances import MODULE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import optimization as theirs

STEPS = 50


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def torch_values(build, steps):
    """The rate of each update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = build(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(seen)


def values(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)))


THEIRS = {
    "linear": lambda w: partial(
        theirs.get_linear_schedule_with_warmup, num_warmup_steps=w, num_training_steps=STEPS
    ),
    "cosine": lambda w: partial(
        theirs.get_cosine_schedule_with_warmup, num_warmup_steps=w, num_training_steps=STEPS
    ),
    "inverse-sqrt": lambda w: partial(theirs.get_inverse_sqrt_schedule, num_warmup_steps=w),
    "wsd": lambda w: partial(
        theirs.get_wsd_schedule, num_warmup_steps=w, num_decay_steps=5, num_training_steps=STEPS
    ),
    "constant": lambda w: partial(theirs.get_constant_schedule_with_warmup, num_warmup_steps=w),
}


@pytest.mark.parametrize("warmup", [0, 1, 7, 45])
@pytest.mark.parametrize("kind", THEIRS)
def test_equals_transformers(kind, warmup):
    """To the last step and one more, where the rate is that of the end."""
    expected = torch_values(THEIRS[kind](warmup), STEPS + 1)
    found = values(warmup_schedule(kind, 0.1, STEPS, warmup), STEPS + 1)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=MODULE)


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        (
            "cosine",
            partial(
                theirs.get_cosine_with_min_lr_schedule_with_warmup,
                num_warmup_steps=7,
                num_training_steps=STEPS,
                min_lr_rate=0.2,
            ),
        ),
        (
            "wsd",
            partial(
                theirs.get_wsd_schedule,
                num_warmup_steps=7,
                num_decay_steps=20,
                num_training_steps=STEPS,
                min_lr_ratio=0.2,
            ),
        ),
    ],
)
def test_an_end_that_is_not_0(kind, build):
    """From the warm-up on: that of their WSD begins at the end's rate."""
    expected = torch_values(build, STEPS + 1)[7:]
    found = values(warmup_schedule(kind, 0.1, STEPS, 7, end=0.2, decay=20), STEPS + 1)[7:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=MODULE)


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_past_the_end_the_rate_stays(kind):
    """Their cosine would climb again."""
    found = values(warmup_schedule(kind, 0.1, STEPS, 5, end=0.3), 3 * STEPS)
    np.testing.assert_allclose(found[STEPS:], 0.03, rtol=MODULE)
    assert (np.diff(found[5:]) <= 0).all()


def test_the_schedule_of_2017_is_one_step_ahead():
    noam = noam_lr(512, 40)
    schedule = warmup_schedule("inverse-sqrt", (512 * 40) ** -0.5, 400, 40)
    np.testing.assert_allclose(values(noam, 400), values(schedule, 401)[1:], rtol=MODULE)


def test_a_warmup_to_the_end_and_a_decay_of_no_steps():
    np.testing.assert_allclose(values(warmup_schedule("linear", 1.0, 4, 4), 6), [0, 0.25, 0.5, 0.75, 0, 0])
    np.testing.assert_allclose(values(warmup_schedule("wsd", 1.0, 4, 1, decay=0), 6), [0, 1, 1, 1, 0, 0])


def test_in_optax_and_as_a_number():
    schedule = warmup_schedule("cosine", 0.1, STEPS, 7)
    optimizer = optax.sgd(schedule)
    state = optimizer.init(jnp.zeros(()))
    for step in range(12):
        update, state = optimizer.update(jnp.ones(()), state)
        np.testing.assert_allclose(-update, float(schedule(step)), rtol=MODULE)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("step", 0.1, 10, 1),
            {},
            "kind must be one of linear, cosine, inverse-sqrt, wsd, constant, got 'step'",
        ),
        (("linear", 0.1, 0, 0), {}, "steps must be at least 1"),
        (("linear", 0.1, 10, 11), {}, "warmup must be from 0 to steps=10, got 11"),
        (("linear", 0.1, 10, -1), {}, "warmup must be from 0"),
        (("cosine", 0.1, 10, 1), {"end": 1.5}, "end must be a probability"),
        (("constant", 0.1, 10, 1), {"end": 0.5}, "end must be 0 for 'constant', which has none"),
        (("wsd", 0.1, 10, 5), {"decay": 6}, "decay must be from 0 to steps - warmup = 5, got 6"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        warmup_schedule(*arguments, **options)
