import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.weights.state_dict import load_state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    draw,
)


class TestEncoderLayer(TwinContract):
    rows = ("encoder-layer-post", "encoder-layer-pre")


def layer(norm_placement: str, **options) -> EncoderLayer:
    return EncoderLayer(
        26, 2, 29, norm_placement=norm_placement, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


@pytest.mark.parametrize("norm_placement", ["post", "pre"])
@jax.enable_x64(True)
def test_neither_order_nor_company_matters(norm_placement):
    module = layer(norm_placement)
    assert_permutation_equivariant(module, draw(3, 5, 26))
    assert_batch_independent(module, draw(3, 5, 26))


@jax.enable_x64(True)
def test_where_the_norm_stands():
    x = 100 + draw(3, 5, 26)
    post = layer("post")(x)
    assert_same(post.mean(-1), jnp.zeros((3, 5)))
    assert_same(post.std(-1), jnp.ones((3, 5)))

    pre = layer("pre")
    for last in (pre.attention.out_proj, pre.feed_forward.down):
        last.kernel[...], last.bias[...] = jnp.zeros_like(last.kernel), jnp.zeros_like(last.bias)
    assert_same(pre(x), x)  # with empty branches the skip connections are all there is


# torch.nn.TransformerEncoderLayer's names against ours.
THEIR_NAMES = {
    "attention.out_proj": "self_attn.out_proj",
    "attention_norm": "norm1",
    "feed_forward.up": "linear1",
    "feed_forward.down": "linear2",
    "feed_forward_norm": "norm2",
}


@pytest.mark.parametrize("norm_placement", ["post", "pre"])
@jax.enable_x64(True)
def test_torchs_own_layer_computes_the_same(norm_placement):
    import torch

    theirs = torch.nn.TransformerEncoderLayer(
        26,
        2,
        29,
        activation="gelu",
        batch_first=True,
        norm_first=norm_placement == "pre",
        dtype=torch.float64,
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = theirs.state_dict()
    state = {
        f"{ours}.{leaf}": weights[f"{name}.{leaf}"]
        for ours, name in THEIR_NAMES.items()
        for leaf in ("weight", "bias")
    }
    for leaf in ("weight", "bias"):
        parts = weights[f"self_attn.in_proj_{leaf}"].chunk(3)
        state |= {f"attention.{name}_proj.{leaf}": part for name, part in zip("qkv", parts, strict=True)}
    module = load_state_dict(layer(norm_placement, eps=1e-5), state)

    x = draw(3, 5, 26)
    keys = np.arange(5) < np.array([[5], [3], [1]])
    expected = theirs(torch.tensor(np.asarray(x)), src_key_padding_mask=torch.from_numpy(~keys))
    assert_same(module(x, jnp.asarray(keys))[keys], expected.detach().numpy()[keys])


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="norm_placement must be one of post, pre, got 'sandwich'"):
        layer("sandwich")
    with pytest.raises(
        ValueError, match="embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"
    ):
        EncoderLayer(26, 3, 29, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(5, 25\)"):
        EncoderLayer(26, 2, 29, rngs=nnx.Rngs(0))(jnp.ones((5, 25)))
