"""A small transformer block in both frameworks, written for these tests, into which mutations are injected."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare

WIDTH = 6


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


class TorchBlock(torch.nn.Module):
    """LayerNorm, masked attention of one head with dropout, erf GELU, and the input on top."""

    def __init__(self, dropout: float = 0.25):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x, mask):
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).mT / WIDTH**0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        y = self.dropout(weights) @ self.v(y)
        return x + torch.nn.functional.gelu(self.out(y))


class FlaxBlock(nnx.Module):
    """`TorchBlock`, with one mutation injected by name."""

    def __init__(self, mutation: str = "", *, rngs: nnx.Rngs):
        self.mutation = mutation
        epsilon = 1e-6 if mutation == "eps of LayerNorm" else 1e-5
        fast = mutation == "variance in one pass"
        self.norm = nnx.LayerNorm(WIDTH, epsilon=epsilon, use_fast_variance=fast, rngs=rngs)
        self.q, self.k, self.v, self.out = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(4))
        self.dropout = nnx.Dropout(0.26 if mutation == "dropout rate" else 0.25, rngs=rngs)

    def __call__(self, x, mask):
        mutation = self.mutation
        y = self.norm(x)
        if mutation == "swapped q and k":
            q, k = self.k(y), self.q(y)
        elif mutation == "transposed weight":
            q, k = y @ self.q.kernel[...].T + self.q.bias[...], self.k(y)
        elif mutation == "bfloat16 inside":
            q, k = self.q(y).astype(jnp.bfloat16).astype(y.dtype), self.k(y)
        else:
            q, k = self.q(y), self.k(y)
        scores = q @ k.mT / (1 if mutation == "no scale" else WIDTH**0.5)
        scores = jnp.where(~mask if mutation == "inverted mask" else mask, scores, -jnp.inf)
        # In float32 inside, as torch's: a softmax in bfloat16 is twice as noisy.
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(y.dtype, jnp.float32))).astype(y.dtype)
        if mutation == "dropout after the values":
            y = self.dropout(weights @ self.v(y))
        elif mutation == "no dropout":
            y = weights @ self.v(y)
        elif mutation == "dropout twice":
            y = self.dropout(self.dropout(weights)) @ self.v(y)
        else:
            y = self.dropout(weights) @ self.v(y)
        y = self.out(jax.lax.stop_gradient(y) if mutation == "cut gradient" else y)
        return x + nnx.gelu(y, approximate=mutation == "tanh GELU")


# The diagonal is always kept, and every row of its opposite keeps something: no row is empty either way.
MASK = np.eye(5, dtype=bool) | (draw(3, 5, 5, seed=7) > 0)
MASK[:, range(5), [1, 2, 3, 4, 0]] = False

CASES = [
    Case("plain", (draw(3, 5, WIDTH), MASK)),
    Case("tiny variance", (1e-3 * draw(3, 5, WIDTH), MASK)),
    Case("large mean", (1e4 + draw(3, 5, WIDTH), MASK)),
]


def flax_block(mutation: str = "") -> FlaxBlock:
    return FlaxBlock(mutation, rngs=nnx.Rngs(0))


def torch_block(dropout: float = 0.25) -> TorchBlock:
    torch.manual_seed(0)
    return TorchBlock(dropout)


# Smaller ones.

EXACT = ("float64",)


def linear(features_in: int = 5, features_out: int = 3, **options) -> nnx.Linear:
    return nnx.Linear(features_in, features_out, rngs=nnx.Rngs(0), **options)


class Nothing(nnx.Module):
    """Returns what a function makes of the input."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class TorchNothing(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def compare_functions(flax, theirs, *inputs, lanes=EXACT, **options):
    return compare(Nothing(flax), TorchNothing(theirs), *inputs, lanes=lanes, **options)
