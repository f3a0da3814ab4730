"""Weights as bytes: never further away than half a step, never larger than there is room."""

import base64
import zlib

import numpy as np
import pytest

from jax_attn.visualize.quantise import LEVELS, finest_size, packed, quantise


def unpacked(found, shape):
    """What the page makes of it."""
    data = zlib.decompress(base64.b64decode(found.text))
    rows = int(np.prod(shape[:-1]))
    largest = np.frombuffer(data, "<f4", rows).reshape(*shape[:-1], 1)
    codes = np.frombuffer(data, np.int8 if found.signed else np.uint8, offset=4 * rows).reshape(shape)
    return codes * largest / found.levels


def drawn(signed=False, shape=(3, 7, 11)):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return values if signed else np.abs(values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("levels", [LEVELS[2], 15, 1])
def test_a_number_is_at_most_half_a_step_away(signed, levels):
    values = drawn(signed)
    values[1, 2] = 0
    codes, largest = quantise(values, levels)
    step = np.abs(values).max(-1) / levels
    assert np.allclose(largest, np.abs(values).max(-1))
    error = np.abs(codes * (largest / levels)[..., None] - values)
    assert (error <= step[..., None] * (0.5 + 1e-5)).all()
    assert error.max() > 0.2 * step.max()  # it is rounded at all


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_packed_comes_out_again(signed):
    values = drawn(signed)
    found = packed(values, 10_000)
    assert found.levels == (127 if signed else 255)
    assert found.signed == signed
    bound = np.abs(values).max(-1, keepdims=True) / found.levels / 2
    assert (np.abs(unpacked(found, values.shape) - values) <= bound * (1 + 1e-4)).all()


def test_it_is_coarser_where_there_is_less_room_and_refused_where_there_is_none():
    values = drawn(shape=(4, 50, 60))
    sizes = [packed(values, room) for room in (20_000, 8_000, 5_000)]
    assert [len(found.text) <= room for found, room in zip(sizes, (20_000, 8_000, 5_000), strict=True)] == [
        True
    ] * 3
    assert sizes[0].levels > sizes[1].levels > sizes[2].levels > 1
    assert abs(finest_size(values) / len(packed(values, 10**6).text) - 1) < 0.3
    with pytest.raises(ValueError, match="12,000 numbers do not fit into 900 characters"):
        packed(values, 900)
