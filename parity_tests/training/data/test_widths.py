from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jax_attn.training.data.widths import CANDIDATES, padded_widths


def padding(lengths, widths):
    """How much is computed, where each row is padded to the first rank that holds it."""
    ranks = np.max([np.searchsorted(widths[name], values) for name, values in lengths.items()], axis=0)
    return sum(np.array(widths[name])[ranks].sum() for name in lengths)


@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=30), shapes=st.integers(1, 4))
def test_no_other_widths_pad_less(lengths, shapes):
    lengths = {"a": np.array(lengths)}
    longest = lengths["a"].max()
    others = combinations(range(1, longest), min(shapes, longest) - 1)
    least = min(padding(lengths, {"a": [*other, longest]}) for other in others)
    assert padding(lengths, padded_widths(lengths, shapes)) == least


@given(
    lengths=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=40),
    shapes=st.integers(1, 5),
)
def test_widths_rise_and_hold_every_row(lengths, shapes):
    source, target = np.array(lengths).T
    widths = padded_widths({"source": source, "target": target}, shapes)
    for name, values in {"source": source, "target": target}.items():
        assert len(widths[name]) == shapes
        assert widths[name] == sorted(widths[name])
        assert widths[name][-1] == values.max()


def test_few_long_texts_cost_a_width_of_their_own():
    """Quarters of equal size would pad every fourth batch to 1,000."""
    lengths = {"a": np.array([*range(2, 60)] * 20 + [1000])}
    widths = padded_widths(lengths)["a"]
    assert widths[2] < 100
    assert all(width % 8 == 0 for width in widths)


def test_one_length_and_many_lengths():
    assert padded_widths({"a": np.array([7, 7, 7])}) == {"a": [7, 7, 7, 7]}
    many = np.arange(1, 100_000)
    widths = padded_widths({"a": many})["a"]
    np.testing.assert_allclose(widths, np.arange(1, 5) * 25_000, atol=len(many) / CANDIDATES)  # the nearest
