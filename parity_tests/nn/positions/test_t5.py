import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.t5 import T5Positions
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestT5Positions(TwinContract):
    rows = ("positions-t5", "positions-t5-causal")


@pytest.mark.parametrize("is_decoder", [False, True])
def test_the_attention_of_t5(is_decoder):
    """All of it: no scale, and buckets of one direction in a decoder."""
    import torch
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(
        d_model=21,
        d_kv=5,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=11,
        is_decoder=is_decoder,
        dropout_rate=0.0,
    )
    config._attn_implementation = "eager"

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)

        def forward(self, x):
            ahead = torch.ones(x.shape[1], x.shape[1]).triu(1).to(x) * (
                torch.finfo(x.dtype).min if is_decoder else 0
            )
            return self.attention(x, mask=ahead[None, None])[0]

    positions = T5Positions(3, 8, 11, bidirectional=not is_decoder, rngs=nnx.Rngs(0))
    ours = MultiHeadAttention(
        21, 3, bias=False, head_dim=5, scale=1.0, is_causal=is_decoder, positions=positions, rngs=nnx.Rngs(0)
    )
    names = [
        (r"^positions\.table", "attention.relative_attention_bias"),
        (r"^out_proj", "attention.o"),
        (r"^([qkv])_proj", r"attention.\1"),
    ]
    x = np.random.default_rng(0).standard_normal((3, 17, 21))
    assert_equals(ours, Attention(), [Case("far apart", (x,))], names=names)


def test_bad_buckets_are_refused():
    for arguments, message in {
        (0, 32, 128): "num_heads must be at least 1, got num_heads=0",
        (3, 7, 128): "num_buckets must be even and at least 4 for both directions, got num_buckets=7",
        (3, 1, 128, False): "num_buckets must be at least 2, got num_buckets=1",
        (3, 32, 8): "max_distance must be above 8, the number of exact buckets, got max_distance=8",
    }.items():
        with pytest.raises(ValueError, match=message):
            T5Positions(*arguments, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="positions are for 3 heads, and the attention has 2"):
        MultiHeadAttention(26, 2, positions=T5Positions(3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    assert jax.eval_shape(T5Positions(3, 7, 128, False, rngs=nnx.Rngs(0)), jnp.zeros((1, 3, 2, 5)))
