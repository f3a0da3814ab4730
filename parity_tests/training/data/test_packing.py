import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_attn.training.data import IGNORED, packed_examples
from jax_attn.training.data.packing import pack

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def numbered(lengths):
    """Documents in which no token occurs twice."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end) for length, end in zip(lengths, ends, strict=True)]


@given(lengths=LENGTHS, length=st.integers(1, 17))
def test_every_token_is_predicted_once_from_the_one_before_it(lengths, length):
    documents = numbered(lengths)
    if max(lengths) < 2:
        with pytest.raises(ValueError, match="no document of 2 or more tokens"):
            packed_examples(documents, length)
        return
    arrays = packed_examples(documents, length, pad_id=-1).arrays
    real = arrays["segment_ids"] > 0
    expected = np.concatenate([document[1:] for document in documents])
    np.testing.assert_array_equal(np.sort(arrays["labels"][real]), expected)
    np.testing.assert_array_equal(arrays["labels"][real], arrays["input_ids"][real] + 1)
    assert (arrays["labels"][~real] == IGNORED).all()
    assert (arrays["input_ids"][~real] == -1).all()


@given(lengths=LENGTHS, length=st.integers(1, 17))
def test_every_token_is_an_input_once(lengths, length):
    documents = numbered(lengths)
    if max(lengths) < 1:
        return
    arrays = packed_examples(documents, length, next_token=False).arrays
    real = arrays["segment_ids"] > 0
    np.testing.assert_array_equal(np.sort(arrays["input_ids"][real]), np.concatenate(documents))
    assert (arrays["labels"] == IGNORED).all()


@given(lengths=LENGTHS, length=st.integers(1, 17))
def test_segments_stand_behind_one_another_and_positions_begin_anew(lengths, length):
    if max(lengths) < 2:
        return
    arrays = packed_examples(numbered(lengths), length).arrays
    for ids, segments, positions in zip(
        arrays["input_ids"], arrays["segment_ids"], arrays["positions"], strict=True
    ):
        count = segments.max()
        order = [*range(1, count + 1), 0] if (segments == 0).any() else list(range(1, count + 1))
        assert list(dict.fromkeys(segments.tolist())) == order
        for segment in range(1, count + 1):
            inside = segments == segment
            np.testing.assert_array_equal(positions[inside], np.arange(inside.sum()))
            np.testing.assert_array_equal(np.diff(ids[inside]), 1)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_rows_hold_everything_once_and_are_never_overfull(sizes):
    rows = pack(np.array(sizes), 20)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    filled = [sum(sizes[index] for index in row) for row in rows]
    assert max(filled) <= 20
    assert sum(f <= 10 for f in filled) <= 1  # two such rows would have been one


def test_little_is_padding():
    documents = numbered(np.random.default_rng(0).integers(2, 60, 1000))
    assert (packed_examples(documents, 64).arrays["segment_ids"] > 0).mean() > 0.96
