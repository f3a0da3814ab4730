"""Two free runs may drift apart as rounding makes them, and no further."""

from dataclasses import replace

from jax_attn.parity import tolerances
from jax_attn.parity.training.lanes import drifted


def test_the_bound_is_that_of_an_update_or_ten_times_the_rounding():
    assert drifted("float64", 0, 0.9 * tolerances.UPDATE, 0.0).passed
    assert not drifted("float64", 0, 1.1 * tolerances.UPDATE, 0.0).passed
    assert drifted("float64", 0, 9e-7, 1e-7).passed
    assert not drifted("float64", 0, 1.1e-6, 1e-7).passed
    assert drifted("float64", 3, 0.0, 0.0) == replace(drifted("float64", 0, 0.0, 0.0), step=3)
