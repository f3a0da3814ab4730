"""How far two tensors of a trace are apart, and which of several is worst."""

import math

import numpy as np

from jax_attn.parity.judging.errors import severity
from jax_attn.parity.tracing.differences import Difference, measure, worst
from parity_tests.parity.pairs import draw


def test_what_has_no_number_is_worst():
    nan, large, integer = (
        Difference("", math.nan, 1e-12),
        Difference("", 9.0, 1e-12),
        Difference("", 1.0, 0.0),
    )
    assert severity(math.nan, 1e-12) == severity(1.0, 0.0) == math.inf
    assert severity(0.0, 0.0) == 0
    assert worst([large, nan, large]) is nan
    assert worst([large, integer]) is integer
    assert worst([]) is None


def test_integers_have_to_be_the_same():
    ids = np.arange(6).reshape(2, 3)
    difference, _ = measure("ids", ids, ids + np.eye(2, 3, dtype=int), bound=1e3)
    assert (difference.error, difference.bound, difference.agrees) == (1.0, 0.0, False)
    assert measure("mask", ids > 2, ids > 2, bound=1e3)[0].agrees
    assert measure("x", draw(2, 3), draw(2, 3) + 1, bound=1e3)[0].agrees


def test_another_kind_of_numbers_is_no_agreement():
    found, layout = measure("ids", np.ones(3), np.ones(3, int), bound=1e-12)
    assert (found.agrees, layout) == (False, None)
    assert found.detail == "float in flax, integer in torch"
