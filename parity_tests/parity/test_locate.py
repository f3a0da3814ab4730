"""The first divergence of pairs that mislead: square tensors, calls in another order, what is not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare
from jax_attn.parity.locate import first_divergence, trace_modules
from parity_tests.parity.pairs import draw


class TorchScores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

    def forward(self, x):
        return self.q(x) @ self.k(x).mT


class TorchAttention(torch.nn.Module):
    """Attention in which the softmax is a module, and follows on square scores."""

    def __init__(self):
        super().__init__()
        self.scores, self.soft, self.norm = TorchScores(), torch.nn.Softmax(-1), torch.nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.soft(self.scores(x)) @ x)


class Scores(nnx.Module):
    def __init__(self, transposed, rngs):
        self.q, self.k = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.transposed = transposed

    def __call__(self, x):
        scores = self.q(x) @ self.k(x).mT
        return scores.mT if self.transposed else scores


class Softmax(nnx.Module):
    def __call__(self, scores):
        return jax.nn.softmax(scores)


class Attention(nnx.Module):
    def __init__(self, transposed=False, epsilon=1e-5):
        rngs = nnx.Rngs(0)
        self.scores, self.soft = Scores(transposed, rngs), Softmax()
        self.norm = nnx.LayerNorm(6, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.soft(self.scores(x)) @ x)


X = draw(2, 5, 6)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_a_square_tensor_is_not_its_transpose():
    found = first_divergence(Attention(transposed=True), TorchAttention(), X)
    assert (found.direction, found.flax_path, found.own_code) == ("forward", "scores", True)
    assert "it agrees with torch's axes in the order (0, 2, 1)" in str(found)


def test_nor_is_the_whole_output():
    call = {"call_flax": lambda module, x: module(x).mT}
    found = first_divergence(Scores(False, nnx.Rngs(0)), TorchScores(), X, backward=False, **call)
    assert (found.direction, found.kind) == ("forward", "output")


def test_an_output_that_one_side_lacks():
    """Floats agree as far as there are any."""
    call = {"call_torch": lambda module, x: (module(x), torch.ones(3, dtype=torch.int64))}
    found = first_divergence(Scores(False, nnx.Rngs(0)), TorchScores(), X, **call)
    assert found.kind == "not comparable"
    assert "torch gives 2 values" in str(found)


class TorchShared(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.norm = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6), torch.nn.LayerNorm(6)
        self.up, self.act = torch.nn.Linear(6, 7), torch.nn.GELU()

    def forward(self, x):
        q = self.norm(self.q(x))
        k = self.norm(self.k(x))
        return self.act(self.up(q + 2 * k))


class Shared(nnx.Module):
    """The same, with the shared norm called in another order, or once for both."""

    def __init__(self, order, approximate):
        rngs = nnx.Rngs(0)
        self.q, self.k = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.up = nnx.Linear(6, 7, rngs=rngs)
        self.order, self.approximate = order, approximate

    def __call__(self, x):
        if self.order == "together":
            q, k = self.norm(jnp.stack([self.q(x), self.k(x)]))
        else:
            k = self.norm(self.k(x))
            q = self.norm(self.q(x))
        return jax.nn.gelu(self.up(q + 2 * k), approximate=self.approximate)


@pytest.mark.parametrize("order", ["k first", pytest.param("together", marks=pytest.mark.slow)])
def test_a_shared_module_called_in_another_order_is_not_blamed(order):
    assert first_divergence(Shared(order, False), TorchShared(), X) is None
    found = first_divergence(Shared(order, True), TorchShared(), X)
    assert (found.flax_path, found.after, found.own_code) == ("", "up", True)
    assert any(entry.startswith("act of torch") for entry in found.unseen)
    assert "or in what was not" in str(found)  # the activation is a module in torch alone


def test_a_whole_model_is_traced_with_its_own_bound():
    """Cancellation leaves 1e-12 of the inputs' size behind, and a later mistake is far larger."""
    pair = Attention(epsilon=1e-3), TorchAttention()
    x = 1e4 + X
    report = compare(*pair, x, lanes=["float64"], whole_model=True, trace=True)
    assert report.first_divergence.flax_path == "norm"
    assert report.first_divergence.bound == 1e-10


class Odd(nnx.Module):
    """Its first argument is not called `self`."""

    def __init__(self):
        self.norm = OddNorm(6, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))

    def __call__(m, x):
        return m.norm(x)


class OddNorm(nnx.LayerNorm):
    def __call__(module, x):
        return nnx.LayerNorm.__call__(module, x)


class TorchOdd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x)


def test_the_module_may_go_by_any_name():
    trace = trace_modules(Odd(), TorchOdd(), X)
    assert not any("on torch's inputs" in note for note in trace.notes)
    assert [call.isolated is not None for call in trace.calls] == [True, True]
    assert not np.isnan(trace.calls[1].isolated.error)


class Single(nnx.Module):
    """A norm that rounds to the digits of float32 by other means than a cast, and then a GELU."""

    def __init__(self, approximate):
        self.norm, self.up = RoundedNorm(), nnx.Linear(6, 7, rngs=nnx.Rngs(0))
        self.act = Gelu(approximate)

    def __call__(self, x):
        return self.act(self.up(self.norm(x)))


class RoundedNorm(nnx.Module):
    def __call__(self, x):
        y = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
        return y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True))


class Gelu(nnx.Module):
    def __init__(self, approximate):
        self.approximate = approximate

    def __call__(self, x):
        return jax.nn.gelu(x, approximate=self.approximate)


class TorchRoundedNorm(torch.nn.Module):
    def forward(self, x):
        return x * x.pow(2).mean(-1, keepdim=True).rsqrt()


class TorchSingle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.act = TorchRoundedNorm(), torch.nn.Linear(6, 7), torch.nn.GELU()

    def forward(self, x):
        return self.act(self.up(self.norm(x)))


@pytest.mark.parametrize("approximate", [True, False])
def test_a_mistake_is_not_hidden_by_the_rounding_before_it(approximate):
    found = first_divergence(Single(approximate), TorchSingle(), draw(3, 5, 6), modules={"act": "act"})
    assert found.flax_path == ("act" if approximate else "norm")
    assert ("differences of float32's size begin before, at norm" in str(found)) == approximate


class TorchTwo(torch.nn.Module):
    """An output that is used inside as well."""

    def __init__(self):
        super().__init__()
        self.embed, self.pool = torch.nn.Embedding(5, 6, padding_idx=0), torch.nn.Linear(6, 6)

    def forward(self, ids):
        hidden = self.embed(ids)
        return {"hidden": hidden, "pooled": self.pool(hidden[:, 0])}


class Two(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed, self.pool = nnx.Embed(5, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, ids):
        hidden = self.embed(ids)
        return {"hidden": hidden, "pooled": self.pool(hidden[:, 0])}


def test_the_gradient_of_an_output_that_is_used_inside_as_well():
    found = first_divergence(Two(), TorchTwo(), np.array([[1, 0, 3], [0, 4, 2]]))
    assert (found.direction, found.kind, found.flax_path) == ("backward", "parameter gradient", "embed")
