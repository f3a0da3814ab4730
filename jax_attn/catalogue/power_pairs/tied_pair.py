"""A small language model as a pair of modules: a scaled embedding that is tied to the head, and a finite fill."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case

WORDS, WIDTH = 7, 5


class FlaxTied(nnx.Module):
    """Attention over scaled embeddings, and their products with the embeddings of all words."""

    def __init__(self) -> None:
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=nnx.Rngs(0))

    def __call__(self, ids: jax.Array, tokens: jax.Array) -> jax.Array:
        """`(b, t)` and `(b, t)`, True = a token, to `(b, t, words)`."""
        x = self.embedded(ids)
        scores = jnp.where(tokens[:, None, :], x @ x.mT, jnp.finfo(x.dtype).min)
        wide = scores.astype(jnp.promote_types(x.dtype, jnp.float32))
        return self.logits(jax.nn.softmax(wide).astype(x.dtype) @ x)

    def embedded(self, ids: jax.Array) -> jax.Array:
        """Times the root of the width."""
        return self.embed(ids) * WIDTH**0.5

    def logits(self, x: jax.Array) -> jax.Array:
        """Products with the embeddings."""
        return self.embed.attend(x)


def torch_tied() -> Any:
    """The same in torch."""
    import torch

    class TorchTied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(WORDS, WIDTH)

        def forward(self, ids: Any, tokens: Any) -> Any:
            x = self.embed(ids) * WIDTH**0.5
            scores = (x @ x.mT).masked_fill(~tokens[:, None, :], torch.finfo(x.dtype).min)
            return torch.nn.functional.linear(scores.softmax(-1) @ x, self.embed.weight)

    torch.manual_seed(0)
    return TorchTied()


def tied_cases() -> list[Case]:
    """Three texts, of which one is padded and one is nothing else."""
    tokens = np.ones((3, 4), bool)
    tokens[0, 2:], tokens[1] = False, False
    return [Case("padding", (np.random.default_rng(0).integers(WORDS, size=(3, 4)), tokens))]
