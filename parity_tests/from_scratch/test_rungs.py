"""Consecutive rungs of the ladder compute the same, once the weights of one are carried to the next.

Weights are carried as torch's `state_dict` has them: a linear layer's `weight` is `(out, in)`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.causal import CausalAttention
from jax_attn.from_scratch.combined_qkv import MultiHeadAttentionCombinedQKV
from jax_attn.from_scratch.einsum import MultiHeadAttentionEinsum
from jax_attn.from_scratch.embed_multi_head import EmbedMultiHeadAttention
from jax_attn.from_scratch.embed_scaled import EmbedScaledSelfAttention
from jax_attn.from_scratch.flex import MultiHeadAttentionFlex
from jax_attn.from_scratch.from_heads import MultiHeadAttentionFromHeads
from jax_attn.from_scratch.head import AttentionHead
from jax_attn.from_scratch.linear_qkv import LinearQKV
from jax_attn.from_scratch.multi_head import MultiHeadAttention
from jax_attn.from_scratch.multi_head_wrapper import MultiHeadAttentionWrapper
from jax_attn.from_scratch.renormalized_causal import RenormalizedCausalAttention
from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from jax_attn.from_scratch.sdpa_masked import MultiHeadAttentionSDPAMasked
from jax_attn.from_scratch.simple import SimpleSelfAttention
from jax_attn.from_scratch.torch_class import MultiHeadAttentionTorchClass
from jax_attn.from_scratch.v1 import SelfAttentionV1
from jax_attn.from_scratch.v2 import SelfAttentionV2
from jax_attn.weights.state_dict import load_state_dict, numpy_state_dict
from parity_tests.from_scratch.properties import assert_same, causal_mask, compiled, draw

Weights = dict[str, np.ndarray]
QKV = ("query", "key", "value")
D_IN, D_OUT, CONTEXT, HEADS, HEAD_DIM = 7, 5, 11, 2, 13
WIDTH = HEADS * HEAD_DIM


def build(kind: type[nnx.Module], *arguments, **named) -> nnx.Module:
    return kind(*arguments, **named, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def carry(target: nnx.Module, weights: Mapping[str, np.ndarray]) -> nnx.Module:
    """`target` with `weights`, which must be all that it has but its masks."""
    own = {key: array for key, array in numpy_state_dict(target).items() if key.endswith("mask")}
    return load_state_dict(target, {**own, **weights})


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The weights of the layers in `names`, old to new: `W_query.weight` as `query.weight`."""
    return {
        f"{new}.{leaf}": weights[f"{old}.{leaf}"]
        for old, new in names.items()
        for leaf in leaves(weights, old)
    }


def leaves(weights: Weights, layer: str) -> list[str]:
    return [leaf for leaf in ("weight", "bias") if f"{layer}.{leaf}" in weights]


def assert_equal_rungs(one: Callable, other: Callable, width: int, tokens: int = 5) -> None:
    """The same outputs, with and without a batch axis, and the same gradient of the input."""
    x = draw(3, tokens, width)
    cotangent = draw(*jax.eval_shape(one, x).shape, seed=1)

    def everything(module: Callable) -> Callable:
        def run(x, cotangent):
            outputs, pull = jax.vjp(module, x)
            return outputs, pull(cotangent)[0], module(x[0])

        return compiled(run)

    for ours, theirs in zip(everything(one)(x, cotangent), everything(other)(x, cotangent), strict=True):
        assert_same(ours, theirs)


@jax.enable_x64(True)
def test_simple_to_v1():
    # Projections that do nothing, and a query that undoes the scale.
    v1 = carry(
        build(SelfAttentionV1, D_IN, D_IN),
        {"W_query": np.eye(D_IN) * D_IN**0.5, "W_key": np.eye(D_IN), "W_value": np.eye(D_IN)},
    )
    assert_equal_rungs(SimpleSelfAttention(), v1, D_IN)


@jax.enable_x64(True)
def test_v1_to_v2_by_transposing():
    v1 = build(SelfAttentionV1, D_IN, D_OUT)
    transposed = {f"{key}.weight": array.T for key, array in numpy_state_dict(v1).items()}
    assert_equal_rungs(v1, carry(build(SelfAttentionV2, D_IN, D_OUT), transposed), D_IN)


@jax.enable_x64(True)
def test_v2_to_embed_scaled():
    v2 = build(SelfAttentionV2, D_IN, D_IN, qkv_bias=True)
    weights = renamed(numpy_state_dict(v2), {f"W_{name}": name for name in QKV})
    assert_equal_rungs(v2, carry(build(EmbedScaledSelfAttention, D_IN), weights), D_IN)


@jax.enable_x64(True)
def test_v2_to_causal_for_the_last_token():
    v2 = build(SelfAttentionV2, D_IN, D_OUT)
    causal = carry(build(CausalAttention, D_IN, D_OUT, CONTEXT, 0.0), numpy_state_dict(v2))
    assert_equal_rungs(lambda x: v2(x)[..., -1, :], lambda x: causal(x)[..., -1, :], D_IN)


@pytest.mark.parametrize("tokens", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, CONTEXT))])
@jax.enable_x64(True)
def test_causal_to_renormalized(tokens):
    causal = build(CausalAttention, D_IN, D_OUT, CONTEXT, 0.0, qkv_bias=True)
    renormalized = build(RenormalizedCausalAttention, D_IN, D_OUT, CONTEXT, 0.0, qkv_bias=True)
    assert_equal_rungs(causal, carry(renormalized, numpy_state_dict(causal)), D_IN, tokens)


def stacked_heads(wrapper: Weights) -> Weights:
    """The heads of a wrapper as one projection: a head is a block of the outputs, the rows of a `weight`."""
    return {
        f"W_{name}.{leaf}": np.concatenate([wrapper[f"heads.{i}.W_{name}.{leaf}"] for i in range(HEADS)])
        for name in QKV
        for leaf in leaves(wrapper, f"heads.0.W_{name}")
    } | renamed(wrapper, {"out_proj": "out_proj"})


@pytest.mark.parametrize("qkv_bias", [pytest.param(False, marks=pytest.mark.slow), True])
@jax.enable_x64(True)
def test_wrapper_to_multi_head(qkv_bias):
    wrapper = build(MultiHeadAttentionWrapper, D_IN, HEAD_DIM, CONTEXT, 0.0, HEADS, qkv_bias, out_proj=True)
    multi_head = build(MultiHeadAttention, D_IN, WIDTH, CONTEXT, 0.0, HEADS, qkv_bias)
    assert_equal_rungs(wrapper, carry(multi_head, stacked_heads(numpy_state_dict(wrapper))), D_IN)


@jax.enable_x64(True)
def test_causal_to_multi_head_of_one_head():
    causal = build(CausalAttention, D_IN, D_OUT, CONTEXT, 0.0)
    own = renamed(numpy_state_dict(causal), {f"W_{name}": f"W_{name}" for name in QKV})
    nothing = {"out_proj.weight": np.eye(D_OUT), "out_proj.bias": np.zeros(D_OUT)}
    multi_head = build(MultiHeadAttention, D_IN, D_OUT, CONTEXT, 0.0, num_heads=1)
    assert_equal_rungs(causal, carry(multi_head, own | nothing), D_IN)


@jax.enable_x64(True)
def test_multi_head_to_embed_multi_head_with_a_causal_mask():
    multi_head = build(MultiHeadAttention, WIDTH, WIDTH, CONTEXT, 0.0, HEADS, qkv_bias=True)
    names = {f"W_{name}": name for name in QKV} | {"out_proj": "out"}
    embed = carry(build(EmbedMultiHeadAttention, WIDTH, HEADS), renamed(numpy_state_dict(multi_head), names))

    def masked(x):
        mask = causal_mask(1, x.shape[-2])[0]
        return embed(x, jnp.broadcast_to(mask, (*x.shape[:-1], x.shape[-2])))

    assert_equal_rungs(multi_head, masked, WIDTH)


def cut_into_heads(embed: Weights) -> Weights:
    """The projections of `EmbedMultiHeadAttention` as those of single heads: the inverse of stacking."""
    weights = renamed(embed, {"out": "output_linear"})
    for name in QKV:
        for leaf in ("weight", "bias"):
            for i, block in enumerate(np.split(embed[f"{name}.{leaf}"], HEADS)):
                weights[f"heads.{i}.{name[0]}.{leaf}"] = block
    return weights


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
@jax.enable_x64(True)
def test_embed_multi_head_to_from_heads(masked):
    embed = build(EmbedMultiHeadAttention, WIDTH, HEADS)
    heads = carry(build(MultiHeadAttentionFromHeads, WIDTH, HEADS), cut_into_heads(numpy_state_dict(embed)))

    def with_padding(module):
        return lambda x: module(x, jnp.broadcast_to(jnp.arange(5) < 3, x.shape[:-1]) if masked else None)

    assert_equal_rungs(with_padding(embed), with_padding(heads), WIDTH)


@jax.enable_x64(True)
def test_v2_to_head():
    v2 = build(SelfAttentionV2, D_IN, D_OUT, qkv_bias=True)
    weights = renamed(numpy_state_dict(v2), {f"W_{name}": name[0] for name in QKV})
    assert_equal_rungs(v2, carry(build(AttentionHead, D_IN, D_OUT), weights), D_IN)


@jax.enable_x64(True)
def test_embed_scaled_to_linear_qkv():
    embed = build(EmbedScaledSelfAttention, D_IN)
    weights = renamed(numpy_state_dict(embed), {name: f"W_{name[0]}" for name in QKV})
    projections = carry(build(LinearQKV, D_IN), weights)

    def attend(x):
        queries, keys, values = projections(x)
        return jax.nn.softmax(queries @ keys.mT / D_IN**0.5) @ values

    assert_equal_rungs(embed, attend, D_IN)


def fused(multi_head: Weights) -> Weights:
    """Queries, keys and values in one projection, in this order."""
    return {
        f"qkv.{leaf}": np.concatenate([multi_head[f"W_{name}.{leaf}"] for name in QKV])
        for leaf in leaves(multi_head, "W_query")
    } | renamed(multi_head, {"out_proj": "proj"})


def raw(multi_head: Weights) -> Weights:
    """Projections as raw matrices that multiply from the right, with biases beside them."""
    weights = renamed(multi_head, {"out_proj": "out_proj"})
    for name in QKV:
        weights[f"W_{name}"] = multi_head[f"W_{name}.weight"].T
        if f"W_{name}.bias" in multi_head:
            weights[f"bias_{name[0]}"] = multi_head[f"W_{name}.bias"]
    return weights


def in_torchs_class(multi_head: Weights) -> Weights:
    """torch's own class has an output projection too, before the wrapper's: that one does nothing here."""
    in_proj = np.concatenate([multi_head[f"W_{name}.weight"] for name in QKV])
    return {
        "multihead_attn.in_proj_weight": in_proj,
        "multihead_attn.out_proj.weight": np.eye(WIDTH),
    } | renamed(multi_head, {"out_proj": "proj"})


# class, how it takes the weights, and whether with biases too
# (torch's class adds a token of keys and values with its biases, which is another function)
CAUSAL_MULTI_HEAD = [
    (MultiHeadAttentionCombinedQKV, fused, (False, True)),
    (MultiHeadAttentionEinsum, raw, (False, True)),
    (MultiHeadAttentionSDPA, fused, (False, True)),
    (MultiHeadAttentionSDPAMasked, fused, (False, True)),
    (MultiHeadAttentionTorchClass, in_torchs_class, (False,)),
    (MultiHeadAttentionFlex, fused, (False, True)),
]


@pytest.mark.parametrize(
    ("kind", "convert", "qkv_bias"),
    [
        pytest.param(kind, convert, bias, marks=[pytest.mark.slow] * (bias != biases[-1]))
        for kind, convert, biases in CAUSAL_MULTI_HEAD
        for bias in biases
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@jax.enable_x64(True)
def test_multi_head_to(kind, convert, qkv_bias):
    sizes = dict(
        d_in=WIDTH, d_out=WIDTH, num_heads=HEADS, context_length=CONTEXT, dropout=0.0, qkv_bias=qkv_bias
    )
    multi_head = build(MultiHeadAttention, **sizes)
    other = carry(build(kind, **sizes), convert(numpy_state_dict(multi_head)))
    assert_equal_rungs(multi_head, other, WIDTH)
