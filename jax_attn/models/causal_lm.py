"""A language model: each token of a text to scores of the next."""

from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int, Integer

from jax_attn.functional.checks import checked
from jax_attn.models.text_decoder import TextCache
from jax_attn.nn.layers.tied_head import TiedHead


class CausalLM(nnx.Module):
    """`head(model(input_ids))`, of parts that are given built.

    Parameters: those of its parts, under `model` and `head`.

    Args:
        model: the decoder, as `TextDecoder`.
        head: vectors to logits, as `CausalLMHead`; or a `TiedHead`, which gets the table of the model's embeddings.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: as in the parts.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners".
    """

    @checked
    def __init__(self, model: Any, head: Any, *, rngs: nnx.Rngs | None = None):
        self.model = model
        self.head = head

    def __call__(
        self,
        input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
        *,
        segment_ids: Integer[Array, "*b t"] | None = None,
        cache: TextCache | None = None,
    ) -> Any:
        """`(b, t)` or `(t,)` ids to logits `(..., t, vocab_size)`; called as `TextDecoder`.

        Returns:
            the logits; with a cache, a tuple of them and the new cache.
        """
        hidden = self.model(input_ids, attention_mask, segment_ids=segment_ids, cache=cache)
        if cache is None:
            return self.logits(hidden)
        hidden, cache = hidden
        return self.logits(hidden), cache

    def decode(
        self, input_ids: Integer[Array, "b t"], attention_mask: Any = None, *, cache: TextCache
    ) -> tuple[Array, TextCache]:
        """The vectors `(b, t, d)` of these tokens, of which `logits` makes scores, and the new cache."""
        return self.model(input_ids, attention_mask, cache=cache)

    def logits(self, hidden: Array) -> Array:
        """The scores of the token after each of these, `(..., d)` to `(..., vocab_size)`."""
        table = (self.model.embeddings.token.embedding[...],) if isinstance(self.head, TiedHead) else ()
        return self.head(hidden, *table)

    @property
    def max_positions(self) -> int | None:
        """The most tokens it takes; None is no limit."""
        return self.model.embeddings.max_positions

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.model.embeddings.token.num_embeddings

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> TextCache:
        """An empty cache for `length` tokens of `batch` sequences, as in `TextDecoder`."""
        return self.model.init_cache(batch, length, dtype=dtype)

    def reorder_cache(self, cache: TextCache, rows: Int[Array, "b"]) -> TextCache:
        """The cache of the sequences `rows`, in that order: of the beams that go on."""
        return self.model.reorder_cache(cache, rows)
