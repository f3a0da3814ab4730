import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.differential import DifferentialAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.nn.positions.attention_positions import AttentionPositions
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_nothing_to_attend_to_gives,
    assert_same,
    compiled,
    draw,
)
from parity_tests.nn.attention.decoding import assert_decodes_as_at_once
from parity_tests.references import assert_equals


class TestDifferentialAttention(TwinContract):
    rows = ("attention-differential", "attention-differential-grouped")
    rounds = False


def attention(**options) -> DifferentialAttention:
    given = {"embed_dim": 29, "num_heads": 4, "head_dim": 6, "is_causal": True, **options}
    return DifferentialAttention(**given, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))


def test_transformers_diff_llama_computes_the_same():
    import torch
    from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    config = DiffLlamaConfig(
        hidden_size=29,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        attention_bias=True,
        rms_norm_eps=1e-3,
    )
    config._attn_implementation = "eager"
    ours = attention(num_heads=8, num_kv_heads=4, positions=RotaryPositions(6), layer_index=2, norm_eps=1e-3)

    def call(module, x):
        angles = torch.arange(5, dtype=x.dtype)[:, None] * 1e4 ** (-torch.arange(0, 6, 2, dtype=x.dtype) / 6)
        angles = torch.cat([angles, angles], dim=-1)[None]
        later = torch.full((5, 5), -torch.inf, dtype=x.dtype).triu(1)
        return module(x, (angles.cos(), angles.sin()), later)[0]

    cases = [Case("plain", (np.asarray(draw(2, 5, 29)),))]
    assert_equals(ours, DiffLlamaAttention(config, 2), cases, call_torch=call, names=[("out_proj", "o_proj")])


@jax.enable_x64(True)
def test_the_weights_are_those_that_make_the_output():
    """Each head is its weights times its value, normalised; of two equal softmaxes `1 - lambda` is left."""
    module, x = attention(is_causal=False), draw(2, 5, 29)
    graphdef, state = nnx.split(module)

    @compiled
    def run(x):
        captured = capture_attention_weights(nnx.merge(graphdef, state))(x)[1][""]
        return module(x), module(x, return_weights=True), captured

    plain, (output, weights), captured = run(x)
    assert_same(plain, output)
    assert_same(captured, weights)
    assert weights.shape == (2, 2, 5, 5)
    values = module.v_proj(x).reshape(2, 5, 2, 2, 6)  # (b, s, which of the pair, head, h)
    heads = jnp.einsum("bnts,bspnh->btnph", weights, values).reshape(2, 5, 2, 12)
    heads = heads / jnp.sqrt(jnp.mean(heads**2, axis=-1, keepdims=True) + 1e-5) * 0.8
    assert_same(module.out_proj(heads.reshape(2, 5, 24)), output)

    factor = jnp.exp(module.lambda_q1 @ module.lambda_k1) - jnp.exp(module.lambda_q2 @ module.lambda_k2) + 0.2
    assert_same(weights.sum(axis=-1), jnp.broadcast_to(1 - factor, (2, 2, 5)))


@jax.enable_x64(True)
def test_token_by_token_is_at_once():
    module = attention(positions=RotaryPositions(6), num_heads=8, num_kv_heads=2)
    assert_decodes_as_at_once(module, draw(2, 9, 29))


@jax.enable_x64(True)
def test_where_nothing_may_be_attended_to_only_the_bias_is_left():
    module = attention()
    assert_nothing_to_attend_to_gives(
        lambda x, mask=None: module(x, mask=mask), draw(3, 5, 29), module.out_proj.bias[...]
    )


class OnValues(AttentionPositions):
    needs_weights = True


def test_bad_arguments_are_refused():
    for options, message in (
        ({"num_heads": 3}, "num_heads must be divisible by the two softmaxes of a head, got num_heads=3"),
        (
            {"num_heads": 6, "num_kv_heads": 3},
            "num_kv_heads must be divisible by the two softmaxes of a head",
        ),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads must be divisible by num_kv_heads"),
        ({"positions": OnValues()}, "positions must not act on the values, which two softmaxes share here"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(**options)
    with pytest.raises(ValueError, match="a cache is for attention with is_causal=True"):
        attention(is_causal=False).init_cache(2, 11)
