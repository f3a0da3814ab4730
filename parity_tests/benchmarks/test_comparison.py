"""Nothing is timed that computes something else, and a ratio is what it says."""

import json
from datetime import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import comparison
from benchmarks.comparison import Comparison, agree, contest, geometric_mean
from benchmarks.contender import Contender, jitted
from benchmarks.memory import free_bytes
from benchmarks.record import as_json, record
from benchmarks.timing import Timing, interleave


def test_speed_is_the_median_of_the_rounds_own_ratios():
    ours, theirs = Timing("ours", (1.0, 2.0, 4.0)), Timing("theirs", (3.0, 8.0, 4.0))
    done = Comparison("case", {"ours": ours, "theirs": theirs})
    assert done.speed_against("theirs") == 3.0  # of 3, 4 and 1
    assert done.speed_against("ours") == 1.0
    assert done.to_json()["median"] == {"ours": 2.0, "theirs": 4.0}
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
    done = contest("case", {"one": one, "other": other}, rounds=2)
    assert set(done.timings) == {"one", "other"}
    assert isinstance(one.run(), jax.Array)


def test_who_needs_more_memory_than_there_is_is_left_out_unrun(monkeypatch):
    def refuse():
        raise AssertionError("ran all the same")

    ours, large = Contender(lambda: jnp.ones(3), temporaries=900), Contender(refuse, temporaries=900)
    small = Contender(lambda: jnp.ones(3), temporaries=700)
    monkeypatch.setattr(comparison, "free_bytes", lambda: 1000)
    done = contest("case", {"ours": ours, "large": large, "small": small}, rounds=1)
    assert set(done.timings) == {"ours", "small"}
    assert done.left_out == {"large": "needs 0.0 GB, and 0.0 GB are free"}


def test_free_memory_is_some():
    assert 2**20 < free_bytes() < 2**50


def test_a_record_names_machine_versions_and_date():
    timing = Timing("ours", (1.0,))
    data = json.loads(
        as_json(record("scale", 1, [Comparison("case", {"ours": timing}, facts={"tokens": 7})]))
    )
    assert data["comparisons"][0]["tokens"] == 7
    assert data["machine"]["cores"] >= 1
    assert data["versions"]["jax"] == jax.__version__
    assert datetime.fromisoformat(data["date"]).tzinfo is not None
