"""Outputs of every structure, and numbers of all sizes."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests.parity.pairs import EXACT, compare_functions, draw

# Outputs of every structure.


class Named(NamedTuple):
    a: object
    b: object


@dataclass
class Data:
    a: object
    b: object
    c: object = None


@pytest.mark.parametrize(
    ("flax", "theirs", "names"),
    [
        (lambda x: (x, 2 * x), lambda x: [x, 2 * x], ["0", "1"]),
        (lambda x: Named(x, 2 * x), lambda x: (x, 2 * x), ["0", "1"]),
        (lambda x: (x, 2 * x), lambda x: Named(x, 2 * x), ["a", "b"]),
        (lambda x: Data(x, 2 * x), lambda x: {"b": 2 * x, "a": x, "c": None}, ["b", "a"]),
        (lambda x: {"a": (x, {"c": x})}, lambda x: {"a": (x, {"c": x})}, ["a.0", "a.1.c"]),
        (lambda x: (x, None), lambda x: (x, None), ["0"]),
        (lambda x: (x, 3, True), lambda x: (x, 3, True), ["0", "1", "2"]),
        (lambda x: (x, x.argmax(-1)), lambda x: (x, x.argmax(-1)), ["0", "1"]),
    ],
)
def test_outputs_of_any_structure(flax, theirs, names):
    report = compare_functions(flax, theirs, draw(2, 3))
    report.assert_passed()
    assert [r.name for r in report.select(kind="output")] == names


def test_outputs_of_transformers():
    from transformers.modeling_outputs import BaseModelOutput

    report = compare_functions(
        lambda x: Data(x, 2 * x),
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, 2 * x)),
        draw(2, 3),
    )
    assert not report.passed
    assert "2 values (last_hidden_state, hidden_states), flax 2 values (a, b)" in report.failures[0].detail
    report = compare_functions(
        lambda x: {"hidden_states": (x, 2 * x), "last_hidden_state": x},
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, 2 * x)),
        draw(2, 3),
    )
    report.assert_passed()


@pytest.mark.parametrize(
    ("flax", "theirs", "message"),
    [
        (lambda x: x, lambda x: (x, x), "torch gives 2 values, flax a float tensor of shape (2, 3)"),
        (lambda x: (x,), lambda x: (x, x), "torch gives 2 values, flax 1 value"),
        (lambda x: x.T, lambda x: x, "a float tensor of shape (2, 3), flax a float tensor of shape (3, 2)"),
        (lambda x: x[:1], lambda x: x, "a float tensor of shape (2, 3), flax a float tensor of shape (1, 3)"),
        (lambda x: x > 0, lambda x: x, "torch gives a float tensor of shape (2, 3), flax a boolean"),
        (lambda x: None, lambda x: x, "torch gives a float tensor of shape (2, 3), flax None"),
        (lambda x: {"a": x}, lambda x: {"b": x}, "torch gives 1 value (b), flax 1 value (a)"),
        (lambda x: "text", lambda x: x, "an output of type str cannot be compared"),
    ],
)
def test_outputs_that_cannot_be_paired(flax, theirs, message):
    report = compare_functions(flax, theirs, draw(2, 3))
    assert not report.passed
    assert message in report.failures[0].detail
    assert not [r for r in report.results if r.passed]


def test_integers_and_booleans_must_be_equal():
    x = draw(2, 3)
    report = compare_functions(lambda x: (x, x.argmax(0)), lambda x: (x, x.argmin(0)), x)
    failure = report.failures[0]
    assert (failure.name, failure.bound) == ("1", 0.0)
    # In the noisy lanes a tie may fall either way: they are left out, and the report says so.
    noisy = compare_functions(lambda x: (x, x > 0), lambda x: (x, x > 0), x, lanes=("bfloat16",))
    noisy.assert_passed()
    assert noisy.left_out[0].reason == "boolean: compared in float64 alone"


def test_nothing_to_compare_is_no_pass():
    for nothing in (lambda x: None, lambda x: ()):
        report = compare_functions(nothing, nothing, draw(2, 3), lanes=("float64", "bfloat16"))
        assert not report.passed
        assert "nothing to compare" in report.failures[0].detail


def test_nan_never_passes():
    x = draw(2, 3)
    for lane in ("float64", "float32"):
        both = compare_functions(lambda x: x * jnp.nan, lambda x: x * torch.nan, x, lanes=(lane,))
        assert not both.passed
        assert "NaN in 6 of 6 values of flax and 6 of 6 values of torch" in both.failures[0].detail
        one = compare_functions(lambda x: jnp.where(x > 0, x, jnp.nan), lambda x: x, x, lanes=(lane,))
        assert "of flax" in one.failures[0].detail
        assert "of torch" not in one.failures[0].detail
    gradient = compare_functions(lambda x: jnp.sqrt(x * 0), lambda x: x * 0, x, lanes=EXACT)
    assert [(r.kind, r.passed) for r in gradient.results] == [("output", True), ("input gradient", False)]


def test_infinities_must_be_the_same():
    def shifted(x):
        return x + np.where(np.arange(3) == 1, -np.inf, 0.0)

    x = draw(2, 3)
    compare_functions(shifted, lambda x: x + torch.tensor([0, -torch.inf, 0]), x).assert_passed()
    for other in (torch.inf, 0.0, 1e300):
        report = compare_functions(shifted, lambda x, other=other: x + torch.tensor([0, other, 0]), x)
        assert not report.passed
    # An infinity that agrees must not hide an error beside it.
    report = compare_functions(shifted, lambda x: x + torch.tensor([1e-6, -torch.inf, 0]), x)
    assert not report.passed


# Numbers of all sizes.


@pytest.mark.parametrize("fill", ["finfo.min", -1e30, -1e9])
def test_a_mask_in_the_output_hides_nothing_and_fails_nothing(fill):
    mask = np.zeros((3, 5), bool)
    mask[0, 2] = True

    def ours(x, mask, error=0.0):
        return jnp.where(mask, jnp.finfo(x.dtype).min if fill == "finfo.min" else fill, x * x + error)

    def theirs(x, mask):
        return (x * x).masked_fill(mask, torch.finfo(x.dtype).min if fill == "finfo.min" else fill)

    lanes = ("float64", "float32", "bfloat16")
    compare_functions(ours, theirs, draw(3, 5), mask, lanes=lanes).assert_passed()
    wrong = compare_functions(lambda x, mask: ours(x, mask, 0.5), theirs, draw(3, 5), mask, lanes=lanes)
    assert {(r.lane, r.kind) for r in wrong.failures} == {(lane, "output") for lane in lanes}


def test_a_huge_gradient_hides_no_other():
    x = np.abs(draw(4, 6))
    x[0, 0] = 1e-30
    for lane in ("float64", "float32"):
        report = compare_functions(lambda x: jnp.sqrt(x) + x, lambda x: x.sqrt() + x, x, lanes=(lane,))
        report.assert_passed()
        cut = compare_functions(
            lambda x: jnp.sqrt(x) + jax.lax.stop_gradient(x), lambda x: x.sqrt() + x, x, lanes=(lane,)
        )
        assert [(r.kind, r.name) for r in cut.failures] == [("input gradient", "input 0")]


def test_what_is_left_of_large_numbers_that_cancel_is_known_no_better():
    """Sums in another order: 1e9 - 1e9 + 0.3 leaves the rounding errors of 1e9."""
    x = np.concatenate([1e9 * draw(3, 4), draw(3, 4, seed=1)], axis=1)
    signs = np.repeat([1.0, -1.0], 8)[:, None] * np.tile(np.eye(8), (2, 1))

    def ours(x):
        y = jnp.concatenate([x, x * 1.1], 1) @ signs
        return jnp.concatenate([x[:, :4], y[:, :4] + 0.1 * x[:, :4] + x[:, 4:]], 1)

    def theirs(x):
        return torch.cat([x[:, :4], x[:, 4:] + x[:, :4] - x[:, :4]], 1)

    report = compare_functions(ours, theirs, x)
    report.assert_passed()
    assert not compare_functions(lambda x: ours(x) + 1e-3, theirs, x).passed


def test_large_integers_are_compared_as_integers():
    x = np.arange(1, 7) * 10**17 + 1
    report = compare_functions(lambda x: x + 1, lambda x: x, x)
    assert report.failures[0].detail == f"at [0]: flax {10**17 + 2}, torch {10**17 + 1}"


def test_an_output_below_the_bound_is_told():
    """The bound is absolute below 1: there float64 says nothing, and the noise does."""
    lanes = ("float64", "float32")
    report = compare_functions(lambda x: x * x * 1e-14, lambda x: x * 1e-14, draw(2, 3), lanes=lanes)
    assert {r.lane for r in report.failures} == {"float32"}
    entry, _ = report.left_out  # and there is no submodule to blame
    assert (entry.lane, entry.name) == ("float64", "output")
    assert "all its values are below the bound 1e-12" in entry.reason
    # Zeros are no small numbers.
    assert not compare_functions(lambda x: (x, 0 * x), lambda x: (x, 0 * x), draw(2, 3)).left_out
