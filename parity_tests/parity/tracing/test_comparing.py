"""Which calls of the two sides are compared with each other, and what is said of what they were given."""

import jax.numpy as jnp
import pytest
import torch
from flax import nnx

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
