"""Attention with rotary positions that goes through a text in pieces, with a cache, as a pair of modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.parity.cases import Case

SIZES: dict[str, Any] = dict(embed_dim=10, num_heads=5, num_kv_heads=1, head_dim=6, is_causal=True)
HEAD, PIECES = 6, (3, 1)


class FlaxCached(nnx.Module):
    """`(b, t, d)` to the same shape: three tokens at once, then one."""

    def __init__(self) -> None:
        self.attention = MultiHeadAttention(**SIZES, positions=RotaryPositions(HEAD), rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The outputs of the pieces, joined."""
        cache, outputs = self.attention.init_cache(len(x), x.shape[1], x.dtype), []
        for piece in np.split(np.arange(x.shape[1]), np.cumsum(PIECES)[:-1]):
            output, cache = self.attention(x[:, piece], cache=cache)
            outputs.append(output)
        return jnp.concatenate(outputs, axis=1)


def torch_cached() -> Any:
    """The same in torch."""
    import torch

    from torch_ref.nn.attention.multi_head import MultiHeadAttention
    from torch_ref.nn.positions.rotary import RotaryPositions

    class TorchCached(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = MultiHeadAttention(**SIZES, positions=RotaryPositions(HEAD))

        def forward(self, x: Any) -> Any:
            cache, outputs = self.attention.init_cache(len(x)), []
            for piece in x.split(PIECES, dim=1):
                output, cache = self.attention(piece, cache=cache)
                outputs.append(output)
            return torch.cat(outputs, dim=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TorchCached()


def cached_cases() -> list[Case]:
    """One call."""
    return [Case("in pieces", (np.random.default_rng(0).standard_normal((2, sum(PIECES), 10)),))]
