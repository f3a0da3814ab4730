"""Nothing is timed that computes something else, and a ratio is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.comparison import Comparison, Contender, agree, contest, geometric_mean, jitted
from benchmarks.timing import Timing, interleave


def test_speed_is_the_median_of_the_rounds_own_ratios():
    ours, theirs = Timing("ours", (1.0, 2.0, 4.0)), Timing("theirs", (3.0, 8.0, 4.0))
    comparison = Comparison("case", {"ours": ours, "theirs": theirs})
    assert comparison.speed_against("theirs") == 3.0  # of 3, 4 and 1
    assert comparison.speed_against("ours") == 1.0
    assert comparison.to_json()["median"] == {"ours": 2.0, "theirs": 4.0}
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_every_contender_is_called_once_a_round_and_another_one_begins():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = interleave(contenders, rounds=3, warmups=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert all(len(timing.seconds) == 3 for timing in timings.values())


@pytest.mark.parametrize("wrong", [2.0, np.nan])
def test_contenders_that_compute_something_else_are_refused(wrong):
    with pytest.raises(RuntimeError, match="theirs differs from ours"):
        agree({"ours": [np.ones(3)], "theirs": [np.full(3, wrong)]}, 1e-3)
    agree({"ours": [np.ones(3)], "theirs": [np.ones(3)]}, 0.0)


def test_a_jitted_contender_tells_its_gradients_and_its_memory():
    x = jnp.arange(5.0)
    contender = jitted(lambda x: x**2, x, cotangent=jnp.ones(5))
    output, gradient = contender.results(contender.run())
    np.testing.assert_array_equal(output, np.arange(5.0) ** 2)
    np.testing.assert_array_equal(gradient, 2 * np.arange(5.0))
    product = jitted(lambda x: jnp.tanh(jnp.outer(x, x)) @ x, jnp.ones(512))
    assert product.temporaries >= 512 * 512 * 4


def test_what_is_not_compared_is_timed_all_the_same():
    one, other = (Contender(lambda value=value: jnp.asarray(value)) for value in (1.0, 2.0))
    comparison = contest("case", {"one": one, "other": other}, rounds=2)
    assert set(comparison.timings) == {"one", "other"}
    assert isinstance(one.run(), jax.Array)
