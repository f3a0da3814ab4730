"""Small models that write texts."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.part import Part
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.decoder import Decoder
from jax_attn.nn.layers.embeddings import Embeddings

VOCAB = 29


class Markov(nnx.Module):
    """The scores of a token hang on the token before it alone: everything about its texts can be worked out."""

    def __init__(self, table: Any):
        self.table = nnx.Param(jnp.asarray(table))

    def init_cache(self, batch: int, length: int) -> jax.Array:
        return jnp.zeros((batch, length))

    def decode(self, ids: jax.Array, mask: Any, *, cache: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.table[...][ids], cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        assert hidden.shape[1] == 1  # the head is asked about the last token, not about the prompt
        return hidden

    def reorder_cache(self, cache: jax.Array, rows: jax.Array) -> jax.Array:
        return cache[rows]


def markov(size: int = 7, seed: int = 0) -> Markov:
    return Markov(np.random.default_rng(seed).standard_normal((size, size)))


def description(**options: Any) -> Part:
    """A GPT-2 with one layer and 23 positions, for both frameworks."""
    return Part(
        CausalLM,
        model=Part(
            TextDecoder,
            embeddings=Part(
                Embeddings, vocab_size=VOCAB, embed_dim=22, max_positions=23, num_segments=0, norm=None
            ),
            decoder=Part(
                Decoder,
                num_layers=1,
                embed_dim=22,
                num_heads=2,
                hidden_dim=31,
                norm_placement="pre",
                final_norm=True,
                dropout=0.5,
                **options,
            ),
        ),
        head=Part(CausalLMHead, embed_dim=22, vocab_size=VOCAB),
    )


@cache
def decoder(**options: Any) -> CausalLM:
    """It, in Flax and in training mode, as it is built."""
    return description(**options).build("jax_attn", rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def prompts(rows: int = 3, tokens: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of 6, 2 and 4 tokens, padded on the left, and their mask."""
    ids = np.random.default_rng(seed).integers(VOCAB, size=(rows, tokens))
    mask = np.arange(tokens) >= np.array([[0], [tokens - 2], [tokens - 4]])[:rows]
    return ids, mask
