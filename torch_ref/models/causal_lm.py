"""A language model: each token of a text to scores of the next."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.tied_head import TiedHead


class CausalLM(nn.Module):
    """`head(model(input_ids))`, of parts that are given built.

    See `jax_attn.models.causal_lm.CausalLM`, its twin, for the arguments.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners".
    """

    @checked()
    def __init__(self, model: Any, head: Any):
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Any:
        """`(b, t)` or `(t,)` ids to logits `(..., t, vocab_size)`; with a cache, a tuple with the new cache."""
        hidden = self.model(input_ids, attention_mask, segment_ids=segment_ids, cache=cache)
        if cache is None:
            return self.logits(hidden)
        hidden, cache = hidden
        return self.logits(hidden), cache

    def logits(self, hidden: Tensor) -> Tensor:
        """The scores of the token after each of these."""
        table = (self.model.embeddings.token.weight,) if isinstance(self.head, TiedHead) else ()
        return self.head(hidden, *table)

    def init_cache(self, batch: int) -> Any:
        """What is kept of no tokens."""
        return self.model.init_cache(batch)
