"""`nnx.MultiHeadAttention` beside projections that torch fuses, keeps apart or shares among heads."""

import re

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from jax_attn.weights import StateDictError, load_state_dict, state_dict
from parity_tests.contract import assert_close

WIDTH, HEADS, HEAD = 10, 4, 3  # the heads together are 12 wide: not the width of the model
BERT = ("query", "key", "value", "out")
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")
OWN = ("queries", "keys", "values", "mix")  # nobody's convention


class Separate(nn.Module):
    """A Linear for each projection, by the names given; keys and values may have fewer heads, of another input."""

    def __init__(self, names=BERT, kv_heads=HEADS, kv_width=WIDTH, bias=True):
        super().__init__()
        self.names = names
        sizes = (WIDTH, HEADS), (kv_width, kv_heads), (kv_width, kv_heads)
        for name, (inputs, heads) in zip(names, sizes, strict=False):
            setattr(self, name, nn.Linear(inputs, heads * HEAD, bias))
        setattr(self, names[3], nn.Linear(HEADS * HEAD, WIDTH, bias))

    def forward(self, x, context):
        q, k, v, out = (getattr(self, name) for name in self.names)
        heads = (
            projection(given).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for projection, given in ((q, x), (k, context), (v, context))
        )
        return out(scaled_dot_product_attention(*heads, enable_gqa=True).transpose(1, 2).flatten(2))


class Fused(Separate):
    """The same with one Linear that holds the three, in order."""

    def __init__(self, kv_heads=HEADS):
        super().__init__(OWN, kv_heads)
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * kv_heads) * HEAD)
        del self.queries, self.keys, self.values
        self.kv_heads = kv_heads

    def forward(self, x, context):
        sizes = [heads * HEAD for heads in (HEADS, self.kv_heads, self.kv_heads)]
        q, k, v = (part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in self.qkv(x).split(sizes, -1))
        return self.mix(scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


class TorchsOwn(nn.MultiheadAttention):
    def forward(self, x, context):
        return super().forward(x, context, context, need_weights=False)[0]


def attention(features=HEADS * HEAD, **options) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(
        HEADS, WIDTH, features, out_features=WIDTH, decode=False, rngs=nnx.Rngs(0), **options
    )


def torchs_own(**options) -> nn.Module:
    return TorchsOwn(8, HEADS, batch_first=True, **options)


def flax_own(**options) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(HEADS, 8, decode=False, rngs=nnx.Rngs(0), **options)


QKV = [(r"^in_proj_(weight|bias)$", r"qkv.\1"), (r"^out_proj\.", "mix.")]
APART = [(rf"^{ours}\.", f"{theirs}.") for ours, theirs in zip((*BERT[:3], "out_proj"), OWN, strict=True)]
PAIRS = {
    "fused": (flax_own, torchs_own, ()),
    "oblong": (lambda: flax_own(in_kv_features=6), lambda: torchs_own(kdim=6, vdim=6), ()),
    "oblong without biases": (
        lambda: flax_own(in_kv_features=6, use_bias=False),
        lambda: torchs_own(kdim=6, vdim=6, bias=False),
        (),
    ),
    "separate, as BERT": (attention, Separate, ()),
    "separate, as Llama": (lambda: attention(use_bias=False), lambda: Separate(LLAMA, bias=False), ()),
    "separate, oblong": (lambda: attention(in_kv_features=7), lambda: Separate(kv_width=7), ()),
    "grouped": (lambda: attention(num_kv_heads=2), lambda: Separate(LLAMA, 2), ()),
    "one head for all": (lambda: attention(num_kv_heads=1), lambda: Separate(BERT, 1), ()),
    "grouped and oblong": (
        lambda: attention(num_kv_heads=2, in_kv_features=7),
        lambda: Separate(BERT, 2, kv_width=7),
        (),
    ),
    "separate, by names of its own": (lambda: attention(num_kv_heads=2), lambda: Separate(OWN, 2), APART),
    "fused in a Linear": (attention, Fused, QKV),
    "grouped, fused in a Linear": (lambda: attention(num_kv_heads=2), lambda: Fused(2), QKV),
}


@pytest.mark.parametrize("name", PAIRS)
def test_either_side_takes_the_weights_of_the_other(name):
    flax, theirs, names = PAIRS[name]
    flax, theirs, other = flax(), theirs(), theirs()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    load_state_dict(flax, theirs.state_dict(), names=names)
    draw = np.random.default_rng(0).standard_normal
    x = draw((2, 3, flax.in_features), np.float32)
    same = name.endswith("Linear") or flax.in_kv_features == flax.in_features
    context = x if same else draw((2, 5, flax.in_kv_features), np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), torch.from_numpy(context))
    given = nnx.jit(lambda module, x, context: module(x, context))(flax, x, context)
    assert_close([given], [expected])

    other.load_state_dict(state_dict(flax, names=names))  # strictly
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], tensor)


@pytest.mark.parametrize("inner", ["self", "attention"])
def test_projections_in_a_submodule_of_their_own(inner):
    """As transformers' BERT and ViT have them: the three in one module, the output in another."""
    flat = Separate().state_dict()
    nested = {
        f"output.dense.{key[4:]}" if key.startswith("out.") else f"{inner}.{key}": value
        for key, value in flat.items()
    }
    flax = load_state_dict(attention(), nested)
    assert state_dict(flax).keys() == nested.keys()
    other = load_state_dict(attention(), flat)
    for ours, theirs in zip(jax.tree.leaves(nnx.state(flax)), jax.tree.leaves(nnx.state(other)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_rule_serves_all_layers():
    flax = nnx.Dict(h=nnx.List([nnx.Dict(a=attention()), nnx.Dict(a=attention())]))
    theirs = nn.ModuleDict({"h": nn.ModuleList(nn.ModuleDict({"a": Separate()}) for _ in range(2))})
    load_state_dict(flax, theirs.state_dict())
    assert flax.torch_layout.names == tuple(dict.fromkeys(flax.torch_layout.names))
    assert len(flax.torch_layout.names) == 4
    theirs.load_state_dict(state_dict(flax))


def test_a_module_that_was_not_loaded_gives_what_torch_asks_for():
    theirs = Separate(LLAMA, 2)
    flax = attention(num_kv_heads=2)
    assert "in_proj_weight" in state_dict(flax)
    theirs.load_state_dict(state_dict(flax, like=theirs.state_dict()))
    np.testing.assert_array_equal(
        theirs.k_proj.weight.detach(), flax.key.kernel[...].reshape(WIDTH, 2 * HEAD).T
    )


MISFITS = [
    (
        lambda: attention(num_kv_heads=2),
        lambda: Separate(BERT, 1),
        "shape: key.weight is (3, 10), expected (6, 10)",
    ),
    (lambda: attention(in_kv_features=7), Separate, "shape: key.weight is (12, 10), expected (12, 7)"),
    (
        lambda: flax_own(in_kv_features=6),
        lambda: torchs_own(kdim=6, vdim=5),
        "shape: v_proj_weight is (8, 5), expected (8, 6)",
    ),
    (flax_own, lambda: torchs_own(add_bias_kv=True), "unexpected: bias_k (1, 1, 8)"),
    (lambda: attention(use_bias=False), Separate, "unexpected: query.bias (12)"),
]


@pytest.mark.parametrize(("flax", "theirs", "error"), MISFITS)
def test_what_does_not_fit_is_told_by_the_names_that_torch_has(flax, theirs, error):
    with pytest.raises(StateDictError, match=re.escape(error)) as caught:
        load_state_dict(flax(), theirs().state_dict())
    assert not any("in_proj" in line and "missing" in line for line in caught.value.errors)
