import math

import numpy as np
import pytest

from jax_attn.parity.judging.errors import common_scale, norm, orders, settled, size, worst_error
from parity_tests.parity.pairs import draw


def test_the_worst_error_and_its_place():
    b = draw(2, 3)
    a = b.copy()
    a[1, 2] += 0.25
    assert worst_error(a, b) == (pytest.approx(0.25 / max(1, np.abs(b).max())), (1, 2))
    assert worst_error(b, b)[0] == 0
    assert worst_error(b[:0], b[:0]) == (0.0, ())
    assert worst_error(np.float64(3), np.float64(2)) == (0.5, ())


def test_numbers_of_one_order_are_judged_by_the_largest_of_them():
    b = np.array([1e12, 3e11, 10.0, 0.0])
    assert [list(np.nonzero(order)[0]) for order in orders(b)] == [[2, 3], [0, 1]]
    assert worst_error(b + np.array([1, 0, 0, 0]), b) == (1e-12, (0,))
    assert worst_error(b + np.array([0, 0, 0, 1]), b) == (0.1, (3,))


def test_what_is_no_fill_hides_nothing_beside_it():
    b = np.array([1e8, 3e7, 10.0, 0.0])
    assert worst_error(b + np.array([0, 0, 0, 1]), b) == (0.1, (3,))
    assert worst_error(b + np.array([1, 0, 0, 0]), b) == (1e-8, (0,))


def test_without_a_leap_the_largest_is_the_measure():
    """Cancellation in between leaves errors of the largest."""
    b = 10.0 ** np.arange(0, 13, 2)
    assert len(orders(b)) == 1
    assert worst_error(b + 0.1, b)[0] == pytest.approx(1e-13, rel=1e-3)
    assert orders(np.array([1e-30, 1e6])) == [...]


def test_fills_that_agree_are_passed_over():
    b = np.array([-1e9, 1e4, 3.0])  # no leap in between
    assert worst_error(b + np.array([0, 0, 1e-3]), b)[0] == pytest.approx(1e-7)
    assert worst_error(b + np.array([1, 0, 0]), b)[0] == pytest.approx(1e-9)
    lowest = np.array([np.finfo(np.float32).min, 1], np.float32), np.array([np.finfo(np.float64).min, 1])
    assert worst_error(*lowest) == (0.0, (0,))
    assert worst_error(lowest[0], -lowest[1])[0] > 0.5


def test_fills_have_to_be_the_same_on_both_sides():
    lowest, highest = np.finfo(np.float64).min, np.finfo(np.float64).max
    for ours, theirs in ((-1e9, -2e9), (-1e9, 1e9), (lowest, -1e9), (highest, lowest), (3.0, -1e9)):
        assert worst_error(np.array([ours, 1]), np.array([theirs, 1]))[0] > 1e-3, (ours, theirs)


def test_the_truth_has_the_fill_too():
    """Where it has something else, what rounding to torch's dtype made a fill is judged."""
    low = np.array([-1e9, 1], np.float32), np.array([-1e9, 1], np.float32)
    assert [list(array) for array in settled(*low, np.array([-1e9, 1]))] == [[0, 1]] * 3
    assert [array[0] for array in settled(*low, np.array([-7.0, 1]))] == [-1e9, -1e9, -7]


def test_infinities_must_be_the_same():
    b = np.array([math.inf, 1.0])
    assert worst_error(b, b)[0] == 0
    assert worst_error(np.array([1e300, 1.0]), b) == (math.inf, (0,))
    assert worst_error(b, np.array([-math.inf, 1.0])) == (math.inf, (0,))


def test_nan_is_found():
    error, index = worst_error(np.array([1, math.nan]), np.array([1.0, 1.0]))
    assert math.isnan(error)
    assert index == (1,)


def test_integers_are_compared_as_integers():
    b = np.array([3, 2**60], np.int64)
    assert worst_error(b + np.array([0, 1]), b) == (1.0, (1,))
    assert worst_error(b.astype(np.int32)[:1], b[:1]) == (0.0, (0,))
    assert worst_error(np.array([True]), np.array([False])) == (1.0, (0,))


def test_a_norm_does_not_overflow():
    assert norm(np.full(4, 1e300)) == pytest.approx(2e300)
    assert norm(np.full(4, 1e-300)) == pytest.approx(2e-300)
    assert norm(np.zeros(3)) == 0


def test_the_common_scale_is_that_of_the_many():
    assert common_scale([draw(3), 10 * np.ones(2)], size) == 10
    assert common_scale([np.array([5e14, 2.0]), np.array([3.0])], size) == 3
    # Gradients may all be large; what is zero by cancellation does not count.
    assert common_scale([np.array([1e9]), np.array([1e-9, 0])], size) == 1e9
    assert common_scale([], size) == 0
