"""Teacher forcing: what a submodule of Flax does with the inputs that torch's was given."""

import jax.numpy as jnp
import torch
from flax import nnx

from jax_attn.parity.locate import trace_modules
from parity_tests.parity.pairs import WIDTH, draw

X = draw(2, 3, WIDTH)
TOKENS = draw(2, 3, seed=1) > 0


def isolated(ours, theirs, of_ours, of_theirs, *inputs):
    """The trace of `of_ours(inner, *inputs)`, where `inner` is called as `ours(linear, *args)`."""

    class Inner(nnx.Linear):
        __call__ = ours

    class TorchInner(torch.nn.Linear):
        forward = theirs

    class Flax(nnx.Module):
        def __init__(self):
            self.inner = Inner(WIDTH, WIDTH, rngs=nnx.Rngs(0))

        def __call__(self, *args):
            return of_ours(self.inner, *args)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TorchInner(WIDTH, WIDTH)

        def forward(self, *args):
            return of_theirs(self.inner, *args)

    return trace_modules(Flax(), Torch(), *inputs, backward=False)


def test_a_mask_of_another_name_may_mean_the_opposite_and_stays():
    def ours(self, x, visible):
        return jnp.where(visible[..., None], nnx.Linear.__call__(self, x), 0)

    def theirs(self, x, hidden):
        return torch.nn.Linear.forward(self, x).masked_fill(hidden[..., None], 0)

    found = isolated(ours, theirs, lambda f, x, m: f(1.5 * x, m), lambda f, x, m: f(x, ~m), X, TOKENS)
    assert not found.calls[1].output.agrees
    assert found.calls[1].isolated.agrees


def test_a_mask_of_the_same_name_is_torchs():
    def ours(self, x, mask):
        return jnp.where(mask[..., None], nnx.Linear.__call__(self, x), 0)

    def theirs(self, x, mask):
        return torch.nn.Linear.forward(self, x).masked_fill(~mask[..., None], 0)

    found = isolated(ours, theirs, lambda f, x, m: f(x, ~m), lambda f, x, m: f(x, m), X, TOKENS)
    assert not found.calls[1].output.agrees
    assert found.calls[1].isolated.agrees


def test_a_tensor_that_is_given_twice_stays_one():
    """A module may ask for `key is query`."""

    def ours(self, query, key):
        return nnx.Linear.__call__(self, query) * (1 if key is query else 2)

    def theirs(self, query, key):
        return torch.nn.Linear.forward(self, query)

    found = isolated(ours, theirs, lambda f, x: f(x, x), lambda f, x: f(x, x), X)
    assert found.calls[1].isolated.agrees


def test_a_side_that_raises_on_torchs_inputs_is_told():
    def ours(self, x):
        if (x == X).all():
            raise ValueError("not these")
        return nnx.Linear.__call__(self, x)

    found = isolated(ours, torch.nn.Linear.forward, lambda f, x: f(1.5 * x), lambda f, x: f(x), X)
    assert found.failure is None
    assert found.notes[-1].startswith("on torch's inputs: flax raised ValueError: not these")
