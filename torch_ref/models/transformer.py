"""The Transformer of 2017: an encoder reads a text, and a decoder writes another."""

from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.layers.decoder_layer import DecoderLayer
from torch_ref.nn.layers.embeddings import Embeddings
from torch_ref.nn.layers.encoder_layer import EncoderLayer
from torch_ref.nn.layers.stack import Stack
from torch_ref.nn.layers.tied_head import TiedHead
from torch_ref.nn.primitives import make_norm


class Transformer(nn.Module):
    """`logits(decoder(target, encoder(source)))`; one table embeds source and target and scores the next token.

    See `jax_attn.models.transformer.Transformer`, its twin, for the arguments.
    `scan` and `remat` mean nothing here.

    Source: Vaswani et al. (arXiv 1706.03762).
    """

    @checked()
    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 512,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        num_layers: int = 6,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: str = "sinusoidal",
        max_positions: int = 1024,
        activation: str = "relu",
        norm_placement: str = "post",
        final_norm: bool = False,
        eps: float = 1e-5,
        *,
        scan: bool = False,
        remat: bool = False,
    ):
        super().__init__()

        def attention(**options: Any) -> MultiHeadAttention:
            options |= {"head_dim": head_dim, "v_head_dim": v_head_dim, "dropout": attention_dropout}
            return MultiHeadAttention(embed_dim, num_heads, **options)

        def stack(layers: list[Any]) -> Stack:
            return Stack(layers, make_norm("layer", embed_dim, eps) if final_norm else None)

        common: dict[str, Any] = {
            "embed_dim": embed_dim,
            "hidden_dim": hidden_dim,
            "activation": activation,
            "norm_placement": norm_placement,
            "dropout": dropout,
            "eps": eps,
        }
        self.embeddings = Embeddings(
            vocab_size,
            embed_dim,
            max_positions,
            num_segments=0,
            dropout=dropout,
            positions=positions,
            norm=None,
            scaled=True,
        )
        nn.init.normal_(self.embeddings.token.weight, std=embed_dim**-0.5)
        self.encoder = stack([EncoderLayer(**common, attention=attention()) for _ in range(num_layers)])
        self.decoder = stack(
            [
                DecoderLayer(**common, attention=attention(is_causal=True), cross_attention=attention())
                for _ in range(num_layers)
            ]
        )
        self.head = TiedHead(vocab_size)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """`(b, s)` and `(b, t)` ids, or without `b`, and masks of 1 or True where a token stands, to logits."""
        return self.logits(self.decode(target, target_mask, self.encode(source, source_mask), source_mask))

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """`(b, s)` ids to vectors `(b, s, d)`."""
        mask, positions = counted(source_mask)
        return self.encoder(self.embeddings(source, positions=positions), mask)

    def decode(
        self,
        target: Tensor,
        target_mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        cache: Any = None,
    ) -> Any:
        """`(b, t)` ids to vectors; with a cache, of `init_cache`, without padding and with the new cache."""
        context_mask = None if context_mask is None else context_mask.bool()
        if cache is None:
            mask, positions = counted(target_mask)
            return self.decoder(self.embeddings(target, positions=positions), context, mask, context_mask)
        length, layers = cache
        after = length + target.shape[1]
        x = self.embeddings(target, positions=torch.arange(length, after))
        hidden, layers = self.decoder(x, context, None, context_mask, cache=layers)
        return hidden, (after, layers)

    def logits(self, hidden: Tensor) -> Tensor:
        """The scores of the token after each of these."""
        return self.head(hidden, self.embeddings.token.weight)

    def init_cache(self, batch: int) -> tuple[int, Any]:
        """What is kept of no tokens: their number, and what the layers keep. The context goes with each call."""
        return 0, self.decoder.init_cache(batch)


def counted(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Which tokens are no padding, and their positions, counted without it; None where there is none."""
    if mask is None:
        return None, None
    mask = mask.bool()
    return mask, torch.where(mask, mask.cumsum(-1) - 1, -1)
