"""Mistakes that ports have been found with, made in Flax itself: each is named, and with certainty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue.power_pairs.decoder_pair import (
    HEADS,
    KEY_HEADS,
    FlaxDecoderLayer,
    decoder_cases,
    torch_decoder_layer,
)
from jax_attn.catalogue.power_pairs.tied_pair import FlaxTied, tied_cases, torch_tied
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.parity.compare import compare
from jax_attn.parity.diagnosing.lint_modules import lint_pair
from parity_tests.parity.diagnosing.test_diagnose import why
from parity_tests.parity.pairs import draw


def certain(diagnosis, mutation, flax):
    cause = diagnosis.cause
    assert (diagnosis.certainty, cause and cause.flax) == ("certain", flax), diagnosis
    assert mutation in {candidate.mutation for candidate in diagnosis.likely}


class Tiled(FlaxDecoderLayer):
    def repeated(self, x):
        return jnp.tile(x, (1, HEADS // KEY_HEADS, 1, 1))


class Reversed(FlaxDecoderLayer):
    def frequencies(self):
        return super().frequencies()[::-1]


class SixteenBits(FlaxDecoderLayer):
    def softmax(self, scores):
        return jax.nn.softmax(scores.astype(jnp.bfloat16)).astype(scores.dtype)


class Parallel(FlaxDecoderLayer):
    def __call__(self, x, tokens):
        return x + self.attention(self.norm1(x), tokens) + self.gated(self.norm2(x))


class Unscaled(FlaxTied):
    def embedded(self, ids):
        return self.embed(ids)


@pytest.mark.parametrize(
    ("mistake", "mutation", "flax"),
    [
        (Tiled, "heads-shared", "query heads share a key head in another order"),
        pytest.param(
            Reversed,
            "rotary-frequencies-reversed",
            "from the last pair to the first",
            marks=pytest.mark.slow,
        ),
        pytest.param(SixteenBits, "softmax-bfloat16", "softmax in bfloat16", marks=pytest.mark.slow),
        pytest.param(
            Parallel,
            "block-parallel",
            "parallel: every branch starts from the same x",
            marks=pytest.mark.slow,
        ),
        (Unscaled, "embedding-unscaled", "as it is"),
    ],
)
def test_a_mistake_in_a_decoder_or_its_embedding(mistake, mutation, flax):
    tied = issubclass(mistake, FlaxTied)
    (case,) = tied_cases() if tied else decoder_cases()
    reference = torch_tied() if tied else torch_decoder_layer()
    certain(why(mistake(), reference, *case.args), mutation, flax)


@pytest.mark.slow
def test_heads_that_are_joined_in_another_order():
    class Joined(FlaxDecoderLayer):
        def joined(self, context):
            b, _, t, _ = context.shape
            return context.transpose(0, 2, 3, 1).reshape(b, t, -1)

    diagnosis = why(Joined(), torch_decoder_layer(), *decoder_cases()[0].args)
    words = "flattened with the last two axes swapped, as (h, w) in the order (w, h)"
    certain(diagnosis, "flatten-last-swapped", words)


class Cross(torch.nn.Module):
    """Attention to a memory, fused; what sees no key gives 0."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (torch.nn.Linear(6, 6) for _ in range(4))

    def forward(self, x, memory, mask=None):
        given = zip((self.q_proj, self.k_proj, self.v_proj), (x, memory, memory), strict=True)
        q, k, v = (f(y).unflatten(-1, (2, 3)).transpose(1, 2) for f, y in given)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).flatten(-2))


def attend(module, x, memory, mask):
    q, k, v = (module.q_proj(x), module.k_proj(memory), module.v_proj(memory))
    scores = jnp.einsum("btnh,bsnh->bnts", *map(module.split_heads, (q, k))) / 3**0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return module.out_proj(jnp.einsum("bnts,bsnh->btnh", weights, module.split_heads(v)).reshape(x.shape))


def test_a_finite_fill_where_a_row_sees_nothing():
    mask = np.array([[True, False, True, True], [False] * 4, [True, True, False, False]])
    flax = MultiHeadAttention(6, 2, rngs=nnx.Rngs(0))
    diagnosis = why(flax, Cross(), draw(2, 3, 6), 2 * draw(2, 4, 6), mask, call_flax=attend)
    certain(diagnosis, "empty-row-mean", "the mean of all values, as of a finite fill")


def test_cross_attention_that_is_causal():
    def call_flax(module, x, memory):
        return attend(module, x, memory, jnp.tril(jnp.ones((x.shape[1], memory.shape[1]), bool)))

    flax = MultiHeadAttention(6, 2, rngs=nnx.Rngs(0))
    diagnosis = why(flax, Cross(), draw(2, 3, 6), 2 * draw(2, 4, 6), call_flax=call_flax)
    certain(diagnosis, "mask-causal", "causal")


def test_an_attention_that_gives_its_weights_too():
    """As transformers' do, and no port has to."""

    class Weighted(Cross):
        def forward(self, x, memory):
            return super().forward(x, memory), x @ memory.mT

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Weighted()

        def forward(self, x, memory):
            return x + self.attention(x, memory)[0]

    class Causal(MultiHeadAttention):
        def __call__(self, x, memory):
            return attend(self, x, memory, jnp.tril(jnp.ones((x.shape[1], memory.shape[1]), bool)))

    class FlaxLayer(nnx.Module):
        def __init__(self):
            self.attention = Causal(6, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, memory):
            return x + self.attention(x, memory)

    diagnosis = why(FlaxLayer(), Layer(), draw(2, 3, 6), 2 * draw(2, 4, 6))
    certain(diagnosis, "mask-causal", "causal")


class Positions(torch.nn.Module):
    """Positions are counted from 2, as in OPT."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(11, 6), torch.nn.Embedding(7, 6)

    def forward(self, ids):
        return self.wte(ids) + self.wpe(torch.arange(ids.shape[-1]) + 2)


class FlaxPositions(nnx.Module):
    def __init__(self):
        self.wte, self.wpe = (nnx.Embed(n, 6, rngs=nnx.Rngs(0)) for n in (11, 7))

    def __call__(self, ids):
        return self.wte(ids) + self.wpe(jnp.arange(ids.shape[-1]))


def test_positions_without_an_offset_of_two():
    ids = np.random.default_rng(0).integers(0, 11, (3, 5))
    certain(why(FlaxPositions(), Positions(), ids), "position-two-back", "from 0")


class Head(torch.nn.Module):
    """An embedding, and a head that is the same tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(7, 6), torch.nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids) ** 2)


class FlaxHead(nnx.Module):
    """The same, with a head of its own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed, self.head = nnx.Embed(7, 6, rngs=rngs), nnx.Linear(6, 7, use_bias=False, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.embed(ids) ** 2)


def test_a_tie_that_is_lost_is_told_by_identity():
    (finding,) = lint_pair(FlaxHead(), Head())
    assert str(finding) == "head: weight: flax a weight of its own, torch the same as embed.weight"


def test_a_tie_that_is_lost_with_the_same_values():
    diagnosis = why(FlaxHead(), Head(), np.arange(7)[None])
    assert diagnosis.divergence.direction == "backward"
    certain(diagnosis, "weights-parted", "head.weight a weight of its own")


class FlaxTwice(nnx.Module):
    """One layer of two names."""

    def __init__(self, tied=True):
        self.first = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        self.second = self.first if tied else nnx.Linear(6, 6, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Twice(torch.nn.Module):
    """Two layers that began with the same numbers."""

    def __init__(self, tied=False):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.second.load_state_dict(self.first.state_dict())
        if tied:
            self.second = self.first

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_a_tie_of_flax_alone():
    told = "second.weight the same as first.weight, second.bias the same as first.bias"
    certain(why(FlaxTwice(), Twice(), draw(2, 3, 6)), "weights-tied", told)
    parted = "second.weight a weight of its own, second.bias a weight of its own"
    certain(why(FlaxTwice(False), Twice(True), draw(2, 3, 6)), "weights-parted", parted)
    assert [str(finding) for finding in lint_pair(FlaxTwice(), Twice())] == [
        f"second: {leaf}: flax the same as first.{leaf}, torch a weight of its own"
        for leaf in ("weight", "bias")
    ]


def test_a_tie_of_flax_alone_keeps_weights_that_differ_from_being_loaded():
    other = Twice()
    torch.nn.init.normal_(other.second.weight)
    with pytest.raises(
        ValueError, match=r"first\.weight and second\.weight are one weight here, and two that"
    ):
        compare(FlaxTwice(), other, draw(2, 3, 6))
    other = Head()
    other.head = torch.nn.Linear(6, 7, bias=False)
    flax = FlaxHead()
    del flax.head
    with pytest.raises(ValueError, match=r"if embed\.weight serves for head\.weight too, as in a tied head"):
        compare(flax, other, np.arange(7)[None])


def test_a_tie_that_is_lost_with_other_values():
    diagnosis = why(FlaxHead(), Head(), np.arange(7)[None], weights=None)
    assert "head: weight: flax a weight of its own, torch the same as embed.weight" in str(diagnosis)
    assert diagnosis.certainty != "certain", diagnosis


@pytest.mark.slow
def test_the_modules_of_the_user_stay_as_they_are():
    reference = torch_decoder_layer()
    before = [set(vars(child)) for child in reference.modules()]
    why(Reversed(), reference, *decoder_cases()[0].args)
    assert [set(vars(child)) for child in reference.modules()] == before


class Projected(torch.nn.Module):
    """Attention of three projections, whose scores are not divided by anything, as T5's."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(6, 8, bias=False) for _ in range(3))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return (q @ k.mT).softmax(-1) @ v


class FlaxProjected(nnx.Module):
    def __init__(self):
        self.q, self.k, self.v = (nnx.Linear(6, 8, use_bias=False, rngs=nnx.Rngs(0)) for _ in range(3))

    def __call__(self, x):
        q, k, v = (layer(x).reshape(*x.shape[:2], 2, 4).swapaxes(1, 2) for layer in (self.q, self.k, self.v))
        return self.weights(q @ k.mT) @ v

    def weights(self, scores):
        return jax.nn.softmax(scores / 2)


class Constant(FlaxProjected):
    def weights(self, scores):
        return jax.lax.stop_gradient(jax.nn.softmax(scores))


def test_of_a_scale_is_said_what_is_known_alone():
    """Torch has none here: that Flax divides by head_dim and torch by its root would be no truth."""
    diagnosis = why(FlaxProjected(), Projected(), draw(2, 5, 6))
    certain(diagnosis, "scale-twice", "torch's scores times 0.5")
    assert diagnosis.cause.torch == "torch's scores"


def test_weights_of_attention_that_pass_no_gradient():
    certain(why(Constant(), Projected(), draw(2, 5, 6)), "attention-weights-constant", "stopped")
