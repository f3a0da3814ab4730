import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import exact_error
from jax_attn.parity.judging.judge import Pair, judge, noises
from jax_attn.parity.lanes import lanes_named
from parity_tests.parity.pairs import draw

EXACT, SINGLE, HALF = lanes_named(["float64", "float32", "bfloat16"])


def exact(kind: str, name: str, flax: np.ndarray, torch: np.ndarray) -> Pair:
    """In float64 torch is the truth."""
    return Pair(kind, name, flax, torch, torch)


def test_the_bounds_are_those_of_the_design():
    assert (tolerances.MODULE, tolerances.WHOLE_MODEL, tolerances.NOISE_RATIO) == (1e-12, 1e-10, 2.0)


def test_the_error_is_relative_above_one_and_absolute_below():
    b = np.array([1.0, -4.0])
    assert exact_error(b + np.array([0, 1]), b) == 0.25
    assert exact_error(b / 100 + np.array([0, 1]), b / 100) == 1.0


def test_a_gradient_that_is_zero_is_judged_by_the_scale_of_the_others():
    rounding = 1e-10 * draw(5)
    others = exact("gradient", "others", 1e6 * draw(3), 1e6 * draw(3))
    zero = exact("gradient", "zero", rounding, 0 * rounding)
    assert not judge("", EXACT, [zero], 1e-12)[0].passed
    assert all(r.passed for r in judge("", EXACT, [others, zero], 1e-12))
    # A tensor that is small, but not zero, has no such excuse.
    small = exact("gradient", "small", 1e-3 + rounding, 1e-3 + 0 * rounding)
    assert not judge("", EXACT, [others, small], 1e-12)[1].passed
    # Nor has an output.
    assert not judge("", EXACT, [others, exact("output", "zero", rounding, 0 * rounding)], 1e-12)[1].passed


def test_the_noise_ratio_is_our_distance_over_torchs():
    truth = draw(100)
    [(ours, theirs, norm)] = noises(Pair("output", "y", truth + 3e-6, truth + 1e-6, truth), [...], 1e-9)
    assert ours / theirs == pytest.approx(3)
    assert norm == pytest.approx(np.linalg.norm(truth))
    # Never less than the dtype's epsilon: torch may be exact, and so may not we.
    [(ours, theirs, _)] = noises(Pair("output", "y", truth * (1 + 1e-7), truth, truth), [...], 1e-7)
    assert ours / theirs == pytest.approx(1)


def test_the_noise_of_a_zero_is_judged_by_the_scale_of_the_others():
    others = draw(100)
    big = Pair("gradient", "others", others, others, others)
    for kind, passed in (("gradient", True), ("output", False)):
        zero = Pair(kind, "zero", 5e-8 * draw(7), 1e-9 * draw(7), 1e-17 * draw(7))
        assert judge("", SINGLE, [big, zero], 1e-12)[1].passed is passed
    wrong = Pair("gradient", "zero", 1e-5 * draw(7), 1e-9 * draw(7), 1e-17 * draw(7))
    assert not judge("", SINGLE, [big, wrong], 1e-12)[1].passed


def test_zero_everywhere_passes_and_something_beside_it_does_not():
    zero = np.zeros(3)
    for lane in (EXACT, SINGLE):
        assert judge("", lane, [Pair("gradient", "w", zero, zero, zero)], 1e-12)[0].passed
        assert not judge("", lane, [Pair("gradient", "w", zero + 1e-3, zero, zero)], 1e-12)[0].passed


def test_bfloat16_is_judged_by_its_own_epsilon():
    truth = draw(100)
    rounded = truth.astype(ml_dtypes.bfloat16)
    [result] = judge("", HALF, [Pair("output", "y", rounded, rounded, truth)], 1e-12)
    assert result.passed
    assert 0 < result.ratio < 1
    assert not judge(
        "", HALF, [Pair("output", "y", rounded * ml_dtypes.bfloat16(1.05), rounded, truth)], 1e-12
    )[0].passed


@pytest.mark.parametrize("where", ["flax", "torch", "truth"])
def test_nan_fails_wherever_it_is(where: str):
    arrays = {name: draw(3) for name in ("flax", "torch", "truth")}
    arrays[where][1] = math.nan
    assert not judge("", SINGLE, [Pair("output", "y", *arrays.values())], 1e-12)[0].passed


def test_the_place_of_the_largest_error_is_told():
    b = draw(2, 3)
    a = b.copy()
    a[1, 2] += 1
    [result] = judge("", EXACT, [exact("output", "y", a, b)], 1e-12)
    assert result.detail == f"at [1, 2]: flax {a[1, 2]:.6g}, torch {b[1, 2]:.6g}"


def test_other_shapes_are_told():
    [result] = judge("", EXACT, [exact("gradient", "w", draw(2, 3), draw(3, 2))], 1e-12)
    assert result.detail == "shape (2, 3) in flax, (3, 2) in torch"
    assert not result.passed


def test_an_empty_tensor_has_no_error():
    assert judge("", EXACT, [exact("output", "y", draw(0, 3), draw(0, 3))], 1e-12)[0].passed


# One huge number hides nothing.


@pytest.mark.parametrize("huge", [-1e30, 5e14, 1e9])
@pytest.mark.parametrize("lane", [EXACT, SINGLE, HALF], ids=lambda lane: lane.name)
def test_a_huge_number_does_not_hide_the_others(huge: float, lane):
    truth = draw(4, 5)
    truth[1, 2] = huge
    theirs, nearly = lane.cast(truth), lane.cast(truth * (1 + lane.eps))
    wrong = lane.cast(truth + np.where(truth == huge, 0, 0.5))
    for kind in ("output", "gradient"):
        assert judge("", lane, [Pair(kind, "y", nearly, theirs, truth)], 1e-12)[0].passed
        [result] = judge("", lane, [Pair(kind, "y", wrong, theirs, truth)], 1e-12)
        assert not result.passed
        assert "[1, 2]" not in result.detail


def test_a_huge_gradient_does_not_make_zeros_of_the_others():
    for lane in (EXACT, SINGLE):
        huge = np.array([5e14, 1.0, -2.0])
        right, wrong = lane.cast(draw(3)), lane.cast(draw(3) + 0.1)
        pairs = [
            exact("gradient", "huge", lane.cast(huge), lane.cast(huge)),
            exact("gradient", "w", wrong, right),
        ]
        assert [r.passed for r in judge("", lane, pairs, 1e-12)] == [True, False]


def test_the_lowest_number_of_a_dtype_is_that_of_another():
    """A mask filled with `finfo.min`: the truth has it in float64."""
    for lane in (SINGLE, HALF):
        truth = draw(4, 5)
        theirs = lane.cast(truth)
        theirs[0], truth[0] = jnp.finfo(lane.dtype).min, np.finfo(np.float64).min
        other, wrong = theirs.copy(), theirs.copy()
        other[0] = -1e30
        wrong[1:] += theirs.dtype.type(1)
        found = [
            judge("", lane, [Pair("output", "y", ours, theirs, truth)], 1e-12)[0]
            for ours in (theirs, other, wrong)
        ]
        assert [result.passed for result in found] == [True, False, False]
