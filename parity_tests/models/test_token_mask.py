import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.models.token_mask import token_mask

ONES = [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32])
def test_ones_and_zeros_are_booleans(dtype):
    mask = token_mask(jnp.asarray(ONES, dtype), (2, 3))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.asarray(ONES, bool))


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match="attention_mask must be boolean or integers 0 and 1, got float32"):
        token_mask(jnp.ones((2, 3)), (2, 3))
    with pytest.raises(ValueError, match=r"must have the shape of input_ids, \(2, 3\), got \(3,\)"):
        token_mask(jnp.ones(3, bool), (2, 3))
