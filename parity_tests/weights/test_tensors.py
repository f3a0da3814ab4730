"""NumPy arrays and torch tensors, into each other, bit for bit and in every dtype."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_attn.weights.tensors import as_numpy, as_torch, is_torch_tensor

DTYPES = [
    *(np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


def random_bits(dtype, shape, seed: int = 0) -> np.ndarray:
    """Any bits, NaN and infinity among them."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    raw = np.frombuffer(raw, np.uint8)
    return (raw % 2 == 1).reshape(shape) if dtype == np.bool_ else raw.view(dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), st.integers(0, 99))
def test_a_round_trip_keeps_every_bit(dtype, shape, seed):
    array = random_bits(dtype, shape, seed)
    tensor = as_torch(array)
    assert str(tensor.dtype).removeprefix("torch.") == np.dtype(dtype).name
    assert tuple(tensor.shape) == shape
    back = as_numpy(tensor)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_views_keep_their_order(dtype):
    array = random_bits(dtype, (3, 5))
    assert as_torch(array.T).is_contiguous()
    assert as_numpy(as_torch(array).T).tobytes() == array.T.tobytes()
    assert as_numpy(as_torch(array.T)).tobytes() == array.T.tobytes()


def test_a_tensor_has_memory_of_its_own():
    array = np.zeros(3, np.float32)
    tensor = as_torch(array)
    array[0] = 1
    assert tensor[0] == 0


def test_parameters_and_arrays_are_taken_as_they_are():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    assert is_torch_tensor(parameter)
    np.testing.assert_array_equal(as_numpy(parameter), [1, 2])
    assert not is_torch_tensor(np.zeros(3))
    np.testing.assert_array_equal(as_numpy([1, 2]), [1, 2])
    conjugate = torch.tensor([1 + 2j]).conj()
    np.testing.assert_array_equal(as_numpy(conjugate), [1 - 2j])
