"""The endings of `names`: `.T` for what torch keeps transposed, `[i]` for a part of what it fuses."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from transformers import GPT2Config, GPT2Model
from transformers.pytorch_utils import Conv1D

from jax_attn.parity.compare import compare
from jax_attn.weights import StateDictError, load_state_dict, state_dict
from parity_tests.contract import assert_close

WIDTH, HEADS = 6, 3
TURNED = [(r"\b(c_attn|c_proj|c_fc)\.weight$", r"\1.weight.T")]


def linear(inputs: int, outputs: int) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))


def norm() -> nnx.LayerNorm:
    return nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))


class Attention(nnx.Module):
    """GPT-2's; `apart` has a layer for each projection, where GPT-2 has one for all."""

    def __init__(self, apart: bool):
        if apart:
            self.q, self.k, self.v = (linear(WIDTH, WIDTH) for _ in range(3))
        else:
            self.c_attn = linear(WIDTH, 3 * WIDTH)
        self.c_proj = linear(WIDTH, WIDTH)

    def __call__(self, x):
        parts = (
            jnp.split(self.c_attn(x), 3, -1) if hasattr(self, "c_attn") else (self.q(x), self.k(x), self.v(x))
        )
        q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in parts)
        causal = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
        return self.c_proj(nnx.dot_product_attention(q, k, v, mask=causal).reshape(x.shape))


class Mlp(nnx.Module):
    def __init__(self):
        self.c_fc, self.c_proj = linear(WIDTH, 4 * WIDTH), linear(4 * WIDTH, WIDTH)

    def __call__(self, x):
        return self.c_proj(nnx.gelu(self.c_fc(x), approximate=True))


class Block(nnx.Module):
    def __init__(self, apart: bool):
        self.ln_1, self.attn, self.ln_2, self.mlp = norm(), Attention(apart), norm(), Mlp()

    def __call__(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt2(nnx.Module):
    def __init__(self, apart: bool = False):
        self.wte = nnx.Embed(11, WIDTH, rngs=nnx.Rngs(0))
        self.wpe = nnx.Embed(7, WIDTH, rngs=nnx.Rngs(0))
        self.h = nnx.List([Block(apart) for _ in range(2)])
        self.ln_f = norm()

    def __call__(self, ids):
        x = self.wte(ids) + self.wpe(np.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


def gpt2(kind=GPT2Model) -> nn.Module:
    sizes = {"vocab_size": 11, "n_positions": 7, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS}
    torch.manual_seed(0)
    model = kind(GPT2Config(**sizes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


class Hidden(GPT2Model):
    """What GPT-2 computes, without the cache beside it."""

    def forward(self, ids):
        return super().forward(ids, use_cache=False).last_hidden_state


IDS = np.random.default_rng(0).integers(0, 11, (2, 5))


run = nnx.jit(lambda model, ids: model(ids))  # one program, in place of one for each operation


def hidden(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).last_hidden_state.numpy()


APART = [
    *((rf"\battn\.{name}\.weight$", f"attn.c_attn.weight[{part}].T") for part, name in enumerate("qkv")),
    *((rf"\battn\.{name}\.bias$", f"attn.c_attn.bias[{part}]") for part, name in enumerate("qkv")),
    *TURNED,
]


@pytest.mark.parametrize("names", [TURNED, APART], ids=["as it is", "apart"])
def test_all_of_gpt2_both_ways(names):
    theirs, other, flax = gpt2(), gpt2(), Gpt2(apart=names is APART)
    load_state_dict(flax, theirs.state_dict(), names=names)
    assert_close([run(flax, IDS)], [hidden(theirs)])
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(state_dict(flax, names=names))
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], tensor)


@pytest.mark.parametrize("ending", [".T", "[0].T", ".T[0]"])
def test_the_endings_in_either_order(ending):
    flax = nnx.Dict(a=linear(2, 3), b=linear(2, 5)) if "[" in ending else nnx.Dict(a=linear(2, 8))
    both = np.arange(16, dtype=np.float32).reshape(2, 8)
    names = [
        (r"^(a)\.weight$", f"x.weight{ending}"),
        (r"^(b)\.weight$", "x.weight" + ending.replace("0", "1")),
    ]
    names += [(r"^a\.bias$", "x.bias" + ending), (r"^b\.bias$", "x.bias" + ending.replace("0", "1"))]
    load_state_dict(flax, {"x.weight": both, "x.bias": np.arange(8, dtype=np.float32)}, names=names)
    kernels = [child.kernel[...] for child in flax.values()]
    np.testing.assert_array_equal(np.concatenate(kernels, 1), both)


def test_the_error_says_which_ending():
    """The pair in the message is all that it takes."""
    theirs = gpt2()
    apart = [(pattern, key.removesuffix(".T")) for pattern, key in APART[:6]]
    for flax, names in ((Gpt2(), []), (Gpt2(apart=True), apart)):
        with pytest.raises(
            StateDictError, match="the transpose of what is expected, as transformers' Conv1D"
        ) as caught:
            load_state_dict(flax, theirs.state_dict(), names=names)
        assert "\n" not in str(caught.value)
        load_state_dict(flax, theirs.state_dict(), names=caught.value.names)
        assert_close([run(flax, IDS)], [hidden(theirs)])


def test_the_whole_of_gpt2_is_compared_without_a_word():
    """A comparison sees the classes of torch's modules, square ones included."""
    report = compare(Gpt2(), gpt2(Hidden), IDS, lanes=["float64"], whole_model=True, trace=False)
    assert report.passed
    assert len(report.select(kind="gradient")) == 28


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (3, 7)])
def test_a_conv1d_alone(inputs, outputs):
    theirs = Conv1D(outputs, inputs)
    nn.init.normal_(theirs.weight)
    x = np.random.default_rng(0).standard_normal((2, inputs))
    assert compare(linear(inputs, outputs), theirs, x, lanes=["float64"]).passed
    bare = load_state_dict(linear(inputs, outputs), theirs.state_dict(), names=[(r"^weight$", "weight.T")])
    np.testing.assert_array_equal(bare.kernel[...], theirs.weight.detach())
    if inputs != outputs:
        with pytest.raises(StateDictError, match="the transpose of what is expected"):
            load_state_dict(linear(inputs, outputs), theirs.state_dict())


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([(r"^b\.", "a.")], r"a\.kernel and b\.kernel have the same torch key, a\.weight"),
        ([(r"^(a|b)\.(\w+)$", r"x.\2[0]")], r"a\.kernel and b\.kernel have the same torch key, x\.weight"),
        ([(r"^a\.(\w+)$", r"x.\1[0]"), (r"^b\.(\w+)$", r"x.\1")], r"have the same torch key, x\.weight"),
    ],
)
def test_parts_that_collide_are_refused(names, error):
    flax = nnx.Dict(a=linear(2, 3), b=linear(2, 5))
    with pytest.raises(ValueError, match=error):
        state_dict(flax, names=names)
