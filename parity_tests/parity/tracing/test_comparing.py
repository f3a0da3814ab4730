"""Which calls of the two sides are compared with each other, and what is said of what they were given."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare
from jax_attn.parity.diagnosing.diagnose import diagnose
from jax_attn.parity.locate import trace_modules
from parity_tests.parity.pairs import WIDTH, draw

X = draw(2, 3, WIDTH)
TOKENS = draw(2, 3, seed=1) > 0


class FlaxLinear(nnx.Linear):
    """A mask may be given, and is passed over."""

    def __call__(self, x, mask=None):
        return super().__call__(x)


class TorchLinear(torch.nn.Linear):
    def forward(self, x, mask=None):
        return super().forward(x)


def trace(ours, theirs, *inputs):
    """The calls of a linear layer, made by `ours(inner, *inputs)` and `theirs(inner, *inputs)`."""

    class Flax(nnx.Module):
        def __init__(self):
            self.inner = FlaxLinear(WIDTH, WIDTH, rngs=nnx.Rngs(0))

        def __call__(self, *args):
            return ours(self.inner, *args)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TorchLinear(WIDTH, WIDTH)

        def forward(self, *args):
            return theirs(self.inner, *args)

    return trace_modules(Flax(), Torch(), *inputs, isolated=False, backward=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda mask: mask, []),
        (lambda mask: ~mask, ["mask: the opposite of torch's"]),
        (lambda mask: mask.at[1, 2].set(~mask[1, 2]), ["mask: error 1 at [1, 2]: flax 0, torch 1"]),
        (lambda mask: mask.astype(jnp.int64), ["mask: integer in flax, boolean in torch"]),
    ],
)
def test_a_mask_that_means_the_opposite_is_told_from_another(change, told):
    calls = trace(lambda inner, x, m: inner(x, change(m)), lambda inner, x, m: inner(x, m), X, TOKENS).calls
    assert calls[1].other_inputs == told


def test_a_call_is_compared_with_the_one_that_was_given_the_same():
    """One side makes them in another order."""
    found = trace(lambda f, x: f(x) - f(2 * x) + f(3 * x), lambda f, x: -f(2 * x) + f(3 * x) + f(x), X)
    assert len(found.calls) == 4
    assert all(call.inputs.agrees and call.output.agrees for call in found.calls)


def test_a_call_that_no_other_was_given_the_same_as_is_compared_in_order():
    found = trace(lambda f, x: f(4 * x) + f(5 * x), lambda f, x: f(x) + f(2 * x), X)
    assert [(call.flax.number, call.torch.number) for call in found.calls[1:]] == [(0, 0), (1, 1)]


def test_tensors_of_other_shapes_are_an_error_where_the_calls_are_as_many():
    def halves(f, x):
        return jnp.concatenate([f(x[:, :1]), f(x[:, 1:])], 1)

    found = trace(lambda f, x: f(x[:, :2]), lambda f, x: f(x), X)
    assert [call.path for call in found.calls] == ["", "inner"]
    assert not found.calls[1].output.agrees
    found = trace(halves, lambda f, x: f(x), X)  # as many tokens, in two calls
    assert [call.path for call in found.calls] == [""]
    reason = "the sides call it on tensors of other shapes, and not equally often"
    assert ("flax", "inner", reason) in found.left_out
    found = trace(lambda f, x: f(x) + f(2 * x), lambda f, x: f(x), X)
    assert [call.path for call in found.calls] == ["", "inner"]  # this one fits


class Table(torch.nn.Module):
    """Looks up a vector for each position, adds it, and normalises."""

    def __init__(self, eps=1e-5):
        super().__init__()
        self.position, self.norm = torch.nn.Embedding(5, 6), torch.nn.LayerNorm(6, eps)

    def forward(self, x):
        return self.norm(x + self.position(torch.arange(x.shape[-2]).expand(x.shape[:-1])))


class FlaxPositions(nnx.Embed):
    """Adds them itself: it is called with vectors, where its counterpart is called with ids."""

    def __call__(self, x):
        return x + self.embedding[: x.shape[-2]]


class FlaxTable(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.position = FlaxPositions(5, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-6, use_fast_variance=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.position(x))


def test_a_module_that_adds_what_its_counterpart_looks_up_is_not_blamed():
    report = compare(FlaxTable(), Table(), draw(2, 5, 6), lanes=("float64",))
    assert report.first_divergence.flax_path == "norm"
    assert ("flax", "position") in {entry[:2] for entry in report.trace.left_out}
    assert str(diagnose(report)).startswith(
        "cause, certain in norm (LayerNorm): eps: flax 1e-06, torch 1e-05"
    )
    agrees = compare(FlaxTable(), Table(1e-6), draw(2, 5, 6), lanes=("float64",))
    agrees.assert_passed()


class Held(Table):
    """What it returns is no structure that can be opened."""

    def forward(self, x):
        return SimpleNamespace(value=super().forward(x))


class FlaxHeld(FlaxTable):
    def __call__(self, x):
        return SimpleNamespace(value=super().__call__(x))


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Held()

    def forward(self, x):
        return 2 * self.inner(x).value


class FlaxWhole(nnx.Module):
    def __init__(self):
        self.inner = FlaxHeld()

    def __call__(self, x):
        return 2 * self.inner(x).value


def test_inside_a_module_whose_output_is_not_compared_its_submodules_are():
    report = compare(FlaxWhole(), Whole(), draw(2, 5, 6), lanes=("float64",))
    assert report.first_divergence.flax_path == "inner.norm"
