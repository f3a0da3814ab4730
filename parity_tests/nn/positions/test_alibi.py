import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.alibi import AlibiPositions
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled
from parity_tests.references import float32_lifted


class TestAlibiPositions(TwinContract):
    rows = ("positions-alibi", "positions-alibi-power-of-two")


@pytest.mark.parametrize("heads", [1, 6, 7, 8, 12])
@jax.enable_x64(True)
def test_the_biases_of_bloom_and_mpt_up_to_a_shift_of_each_row(heads):
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    with float32_lifted():
        blooms = build_alibi_tensor(torch.ones(1, 11), heads, torch.float64)
        mpts = build_mpt_alibi_tensor(heads, 11)
    ours = compiled(AlibiPositions(heads))(jnp.zeros((1, heads, 11, 11)))[0]
    assert_same(ours, ours.swapaxes(1, 2))
    for theirs in (blooms, mpts):  # a row for all queries, of whom each sees what stands before it
        theirs = np.broadcast_to(theirs, (heads, 11, 11))
        own_place = np.diagonal(theirs, axis1=1, axis2=2)[..., None]
        assert_same(np.tril(ours), np.tril(theirs - own_place))


def test_the_slopes_are_those_of_the_paper():
    slopes = -AlibiPositions(8)(jnp.zeros((1, 8, 1, 2)))[0, :, 0, 1]
    np.testing.assert_array_equal(slopes, 2.0 ** -np.arange(1, 9))


def test_bad_numbers_of_heads_are_refused():
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        AlibiPositions(0)
    with pytest.raises(ValueError, match="positions are for 3 heads, and the attention has 2"):
        MultiHeadAttention(26, 2, positions=AlibiPositions(3), rngs=nnx.Rngs(0))
