"""Weights saved by the code of the source documents load strictly, into the twin and into Flax."""

from importlib import import_module

import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.weights import StateDictError, load_state_dict, numpy_state_dict
from parity_tests.from_scratch.properties import draw

QKV = ("query", "key", "value")
CONTEXT = 11
CAUSAL = dict(d_in=7, d_out=26, context_length=CONTEXT, dropout=0.1)
HEADS = dict(CAUSAL, num_heads=2)


def linear(names, d_in: int, d_out: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of linear layers."""
    shapes = {f"{name}.weight": (d_out, d_in) for name in names}
    return shapes | ({f"{name}.bias": (d_out,) for name in names} if bias else {})


def projections(prefix: str = "", bias: bool = False) -> dict[str, tuple[int, ...]]:
    return linear([f"{prefix}W_{name}" for name in QKV], 7, 26, bias)


MASK = {"mask": (CONTEXT, CONTEXT)}
WRAPPED = {key: shape for i in range(2) for key, shape in projections(f"heads.{i}.").items()} | {
    f"heads.{i}.mask": (CONTEXT, CONTEXT) for i in range(2)
}

# where the class lives, its arguments, and the keys and shapes that the source's own class has
SOURCES = [
    ("simple:SimpleSelfAttention", {}, {}),
    ("v1:SelfAttentionV1", dict(d_in=7, d_out=26), {f"W_{name}": (7, 26) for name in QKV}),
    ("v2:SelfAttentionV2", dict(d_in=7, d_out=26), projections()),
    ("v2:SelfAttentionV2", dict(d_in=7, d_out=26, qkv_bias=True), projections(bias=True)),
    ("embed_scaled:EmbedScaledSelfAttention", dict(embed_dim=7), linear(QKV, 7, 7)),
    ("causal:CausalAttention", CAUSAL, projections() | MASK),
    ("renormalized_causal:RenormalizedCausalAttention", CAUSAL, projections() | MASK),
    ("multi_head_wrapper:MultiHeadAttentionWrapper", HEADS, WRAPPED),
    (
        "multi_head_wrapper:MultiHeadAttentionWrapper",
        dict(HEADS, out_proj=True),
        WRAPPED | linear(["out_proj"], 52, 52),
    ),
    ("multi_head:MultiHeadAttention", HEADS, projections() | linear(["out_proj"], 26, 26) | MASK),
    (
        "embed_multi_head:EmbedMultiHeadAttention",
        dict(embed_dim=14, num_heads=2),
        linear([*QKV, "out"], 14, 14),
    ),
    ("head:AttentionHead", dict(embed_dim=7, head_dim=5), linear("qkv", 7, 5)),
    (
        "from_heads:MultiHeadAttentionFromHeads",
        dict(embed_dim=14, num_heads=2),
        linear([f"heads.{i}.{name}" for i in range(2) for name in "qkv"], 14, 7)
        | linear(["output_linear"], 14, 14),
    ),
    ("linear_qkv:LinearQKV", dict(d_model=7), linear(["W_q", "W_k", "W_v"], 7, 7)),
]


def saved(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A `state_dict` of these keys and shapes; a mask is 1 above the diagonal."""
    return {
        key: torch.triu(torch.ones(shape), diagonal=1)
        if key.endswith("mask")
        else torch.tensor(np.asarray(draw(*shape, seed=seed), np.float32) / 3)
        for seed, (key, shape) in enumerate(shapes.items())
    }


def both(where: str, arguments: dict) -> tuple[nnx.Module, torch.nn.Module]:
    file, name = where.split(":")
    flax = getattr(import_module(f"jax_attn.from_scratch.{file}"), name)(**arguments, rngs=nnx.Rngs(0))
    twin = getattr(import_module(f"torch_ref.from_scratch.{file}"), name)(**arguments)
    return flax, twin


@pytest.mark.parametrize(("where", "arguments", "shapes"), SOURCES)
def test_saved_weights_load_strictly(where, arguments, shapes):
    flax, twin = both(where, arguments)
    weights = saved(shapes)
    twin.load_state_dict(weights, strict=True)
    load_state_dict(flax, weights)
    for key, array in numpy_state_dict(flax).items():
        np.testing.assert_array_equal(array, weights.pop(key).numpy())
    assert not weights


@pytest.mark.parametrize(
    ("where", "arguments", "shapes"), [source for source in SOURCES if "mask" in source[2]]
)
def test_another_mask_is_refused(where, arguments, shapes):
    flax, _ = both(where, arguments)
    weights = saved(shapes)
    weights["mask"] = weights["mask"].T
    with pytest.raises(StateDictError, match="mask"):
        load_state_dict(flax, weights)
