"""A decoder's layer as a pair of modules, for the mutations that no row of the catalogue has a place for.

Rotary positions, key heads that are shared, a causal mask and padding in one, RMSNorm by hand, a gated
feed-forward layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case

WIDTH, HEADS, KEY_HEADS, HEAD, HIDDEN, EPS = 10, 4, 2, 6, 7, 1e-6


def _frequencies(base: float) -> np.ndarray:
    return base ** (-np.arange(0, HEAD, 2) / HEAD)


class FlaxDecoderLayer(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; `base` is that of the rotary frequencies."""

    def __init__(self, base: float = 10000.0):
        rngs = nnx.Rngs(0)
        shared = KEY_HEADS * HEAD

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)

        self.base = base
        self.norm1, self.norm2 = (nnx.RMSNorm(WIDTH, epsilon=EPS, rngs=rngs) for _ in range(2))
        self.q_proj, self.o_proj = linear(WIDTH, HEADS * HEAD), linear(HEADS * HEAD, WIDTH)
        self.k_proj, self.v_proj = linear(WIDTH, shared), linear(WIDTH, shared)
        self.gate, self.up, self.down = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN), linear(HIDDEN, WIDTH)

    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """`(b, t, d)` and `(b, t)`, True = a token, to `(b, t, d)`."""
        x = x + self.attention(self.norm1(x), tokens)
        return x + self.gated(self.norm2(x))

    def gated(self, x: jax.Array) -> jax.Array:
        """`down(silu(gate(x)) up(x))`."""
        return self.down(nnx.silu(self.gate(x)) * self.up(x))

    def attention(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """Causal, of tokens alone."""
        q, k, v = (
            project(x).reshape(*x.shape[:2], -1, HEAD).swapaxes(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = self.turned(q) @ self.repeated(self.turned(k)).mT / HEAD**0.5
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool)) & tokens[:, None, None, :]
        weights = self.softmax(jnp.where(seen, scores, -jnp.inf))
        return self.o_proj(self.joined(weights @ self.repeated(v)))

    def repeated(self, x: jax.Array) -> jax.Array:
        """Key heads, each for as many query heads in a row as share it."""
        return jnp.repeat(x, HEADS // KEY_HEADS, axis=1)

    def softmax(self, scores: jax.Array) -> jax.Array:
        """In float32 at least."""
        return jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32))).astype(
            scores.dtype
        )

    def joined(self, context: jax.Array) -> jax.Array:
        """`(b, n, t, h)` to `(b, t, n h)`."""
        b, _, t, _ = context.shape
        return context.swapaxes(1, 2).reshape(b, t, -1)

    def frequencies(self) -> np.ndarray:
        """Of each pair of features."""
        return _frequencies(self.base)

    def turned(self, x: jax.Array) -> jax.Array:
        """Rotary positions, half-split."""
        angles = np.arange(x.shape[-2])[:, None] * self.frequencies()
        angles = np.concatenate([angles, angles], -1)
        cos, sin = np.cos(angles), np.sin(angles)
        a, b = jnp.split(x, 2, -1)
        return x * jnp.asarray(cos, x.dtype) + jnp.concatenate([-b, a], -1) * jnp.asarray(sin, x.dtype)


def torch_decoder_layer(base: float = 10000.0) -> Any:
    """The same in torch."""
    import torch
    from torch import nn

    class RootMeanSquare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(1 + 0.3 * torch.randn(WIDTH))
            self.variance_epsilon = EPS

        def forward(self, x: Any) -> Any:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def linear(inputs: int, outputs: int) -> Any:
        return nn.Linear(inputs, outputs, bias=False)

    class TorchDecoderLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = KEY_HEADS * HEAD
            self.norm1, self.norm2 = RootMeanSquare(), RootMeanSquare()
            self.q_proj, self.o_proj = linear(WIDTH, HEADS * HEAD), linear(HEADS * HEAD, WIDTH)
            self.k_proj, self.v_proj = linear(WIDTH, shared), linear(WIDTH, shared)
            self.gate, self.up = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN)
            self.down = linear(HIDDEN, WIDTH)

        def forward(self, x: Any, tokens: Any) -> Any:
            x = x + self.attention(self.norm1(x), tokens)
            y = self.norm2(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

        def attention(self, x: Any, tokens: Any) -> Any:
            projections = (self.q_proj, self.k_proj, self.v_proj)
            q, k, v = (project(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for project in projections)
            q, k = self.turned(q), self.turned(k).repeat_interleave(HEADS // KEY_HEADS, 1)
            scores = q @ k.mT / HEAD**0.5
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & tokens[:, None, None, :]
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            context = weights @ v.repeat_interleave(HEADS // KEY_HEADS, 1)
            return self.o_proj(context.transpose(1, 2).flatten(-2))

        def turned(self, x: Any) -> Any:
            positions = torch.arange(x.shape[-2], dtype=torch.float64)
            angles = positions[:, None] * torch.tensor(_frequencies(base))
            angles = torch.cat([angles, angles], -1)
            a, b = x.chunk(2, -1)
            return x * angles.cos().to(x.dtype) + torch.cat([-b, a], -1) * angles.sin().to(x.dtype)

    torch.manual_seed(0)
    return TorchDecoderLayer()


def decoder_cases() -> list[Case]:
    """Two texts of which one is padded."""
    tokens = np.ones((2, 5), bool)
    tokens[0, 3:] = False
    return [Case("padding", (np.random.default_rng(0).standard_normal((2, 5, WIDTH)), tokens))]
