"""A decoder of texts: each token's vector depends on the tokens before it."""

from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class TextDecoder(nn.Module):
    """`decoder(embeddings(input_ids))`, of parts that are given built: a causal model without its head.

    See `jax_attn.models.text_decoder.TextDecoder`, its twin, for the arguments.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners".
    """

    @checked()
    def __init__(self, embeddings: Any, decoder: Any):
        super().__init__()
        self.embeddings = embeddings
        self.decoder = decoder

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        cache: Any = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Any:
        """`(b, t)` or `(t,)` ids and a mask of 1 or True where a token stands to vectors `(..., t, d)`.

        With a cache, of `init_cache`, there is no padding, and what is returned is a tuple of the vectors and the
        new cache. A context is given with each call. Segments are texts that are packed into one row.
        """
        given = {"context": context, "context_mask": context_mask, "segment_ids": segment_ids}
        options = {name: tensor for name, tensor in given.items() if tensor is not None}
        if cache is not None:
            length, layers = cache
            positions = torch.arange(length, length + input_ids.shape[1])
            hidden, layers = self.decoder(
                self.embeddings(input_ids, positions=positions), cache=layers, **options
            )
            return hidden, (length + input_ids.shape[1], layers)
        mask = None if attention_mask is None else attention_mask.bool()
        positions = None if mask is None else torch.where(mask, mask.cumsum(-1) - 1, -1)
        if segment_ids is not None:
            positions = segment_positions(segment_ids)
        return self.decoder(self.embeddings(input_ids, positions=positions), mask=mask, **options)

    def init_cache(self, batch: int) -> tuple[int, Any]:
        """What is kept of no tokens: their number, and what the layers keep."""
        return 0, self.decoder.init_cache(batch)


def segment_positions(segment_ids: Tensor) -> Tensor:
    """A token's position is the number of those before it in its segment."""
    same = segment_ids.unsqueeze(-1) == segment_ids.unsqueeze(-2)
    return same.tril(-1).sum(-1)
