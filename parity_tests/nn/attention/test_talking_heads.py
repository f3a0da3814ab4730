import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn import MultiHeadAttention, TalkingHeads
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestTalkingHeads(TwinContract):
    rows = ("talking-heads",)


@jax.enable_x64(True)
def test_wider_heads_that_share_a_key_are_the_definition():
    """In attention, and there with fewer keys than queries, masked and with its weights."""
    module = MultiHeadAttention(
        26, 6, 2, head_dim=4, talking_heads=True, is_causal=True, rngs=nnx.Rngs(0), param_dtype=jnp.float64
    )
    x = draw(3, 5, 26)
    output, weights = compiled(lambda x: module(x, return_weights=True))(x)

    q, k, v = (module.split_heads(project(x)) for project in (module.q_proj, module.k_proj, module.v_proj))
    k, v = (np.repeat(np.asarray(part), 3, axis=2) for part in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / 2
    mixed = np.einsum("bmts,nm->bnts", scores, module.talking_heads.before[...])
    softmax = np.exp(np.where(np.tri(5, dtype=bool), mixed, -np.inf))
    softmax /= softmax.sum(-1, keepdims=True)
    expected = np.einsum("bmts,nm->bnts", softmax, module.talking_heads.after[...])
    assert_same(weights, expected)
    heads = np.einsum("bnts,bsnh->btnh", expected, v).reshape(3, 5, 24)
    assert_same(output, heads @ module.out_proj.kernel[...] + module.out_proj.bias[...])


class Stored(torch.nn.Module):
    """The mixing of x-transformers' heads by a matrix as ours: it keeps a convolution, and adds what it mixes."""

    def __init__(self, num_heads: int, adds: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(num_heads, num_heads))
        self.adds = adds

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        weight = self.weight - torch.eye(len(self.weight)) if self.adds else self.weight
        return torch.nn.functional.conv2d(heads, weight[..., None, None])


@pytest.mark.slow  # its import takes seconds, and the definition is above
@pytest.mark.filterwarnings("ignore")
@jax.enable_x64(True)
def test_it_is_x_transformers():
    from x_transformers import Attention

    options = dict(pre_talking_heads=True, post_talking_heads=True)
    theirs = Attention(26, heads=3, dim_head=5, causal=True, flash=False, **options)
    theirs.attend.pre_softmax_talking_heads = Stored(3, adds=True)
    theirs.attend.post_softmax_talking_heads = Stored(3, adds=False)
    ours = MultiHeadAttention(
        26, 3, head_dim=5, bias=False, is_causal=True, talking_heads=True, rngs=nnx.Rngs(0)
    )
    names = [
        (r"([qkv])_proj", r"to_\1"), ("out_proj", "to_out"),
        ("talking_heads.before", "attend.pre_softmax_talking_heads.weight"),
        ("talking_heads.after", "attend.post_softmax_talking_heads.weight"),
    ]  # fmt: skip
    assert_equals(ours, theirs, [Case("", (np.asarray(draw(2, 7, 26)),))], names=names)


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        TalkingHeads(0, rngs=nnx.Rngs(0))
