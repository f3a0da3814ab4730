import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestDecoderLayer(TwinContract):
    rows = ("decoder-layer", "decoder-layer-llama", "decoder-layer-parallel")
    rounds = False
    elsewhere = ("decoder-layer-llama",)  # the family


# transformers' names against ours: norms on either side of each branch.
GEMMA_NAMES = [
    (r"^attention\.(\w)_proj", r"self_attn.\1_proj"),
    (r"^attention\.out_proj", "self_attn.o_proj"),
    (r"^attention_norm", "input_layernorm"),
    (r"^attention_output_norm", "post_attention_layernorm"),
    (r"^feed_forward_norm", "pre_feedforward_layernorm"),
    (r"^feed_forward_output_norm", "post_feedforward_layernorm"),
    (r"^feed_forward\.(\w+)", r"mlp.\1_proj"),
]


def test_the_sandwich_of_gemma_2():
    from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer

    config = Gemma2Config(
        hidden_size=28,
        intermediate_size=29,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=2.0,
        attn_implementation="eager",
    )
    attention = MultiHeadAttention(
        28,
        4,
        2,
        bias=False,
        head_dim=6,
        is_causal=True,
        positions=RotaryPositions(6),
        scale=7**-0.5,
        softcap=2.0,
        rngs=nnx.Rngs(0),
    )
    ours = DecoderLayer(
        28,
        norm_placement="sandwich",
        norm="rms_unit_offset",
        eps=config.rms_norm_eps,
        attention=attention,
        feed_forward=GatedFeedForward(28, 29, "gelu_tanh", rngs=nnx.Rngs(0)),
        rngs=nnx.Rngs(0),
    )
    assert_equals(
        ours,
        Gemma2DecoderLayer(config, 0),
        [Case("plain", (np.random.default_rng(0).standard_normal((3, 5, 28)),))],
        names=GEMMA_NAMES,
        call_torch=call_rotary,
    )


def call_rotary(module: torch.nn.Module, x: torch.Tensor, base: float = 1e4) -> torch.Tensor:
    """Call a decoder layer of transformers, which is given its mask, and the cosines and sines of its positions."""
    width = module.self_attn.head_dim
    angles = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angles = torch.cat([angles, angles], dim=-1)[None]
    closed = torch.full((1, 1, x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
    return module(x, position_embeddings=(angles.cos(), angles.sin()), attention_mask=closed)


def test_bad_arguments_and_input_are_refused():
    options = {"rngs": nnx.Rngs(0)}
    seeing_all = MultiHeadAttention(26, 2, **options)
    for arguments, message in (
        ({"attention": seeing_all}, "attention must be causal in a decoder, got one with is_causal=False"),
        (
            {"norm_placement": "parallel", "context_dim": 7},
            "norm_placement='parallel' is for layers without a con",
        ),
        (
            {"cross_attention": MultiHeadAttention(8, 2, **options)},
            "cross_attention must be for embed_dim=26",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            DecoderLayer(26, 2, 29, **arguments, **options)
    alone, with_context = (DecoderLayer(26, 2, 29, context_dim=width, **options) for width in (None, 7))
    x, context = jnp.ones((3, 5, 26)), jnp.ones((3, 4, 7))
    cache = with_context.init_cache(3, 5, context)
    for call, message in (
        (lambda: alone(x, context), "context must be None: this layer has no cross_attention"),
        (lambda: with_context(x), "context must be given"),
        (lambda: with_context.init_cache(3, 5), "context must be given"),
        (lambda: with_context(x, context, cache=cache), "context cannot be given together with a cache"),
        (lambda: alone.init_cache(3, 5)[0].check_room(6, None), "the cache is for 5 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
