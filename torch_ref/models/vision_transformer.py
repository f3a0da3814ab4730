"""A Transformer that looks at images: pixels to a vector for each patch, and one for the image."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.models.text_encoder import EncoderOutput


class VisionTransformer(nn.Module):
    """`pooler(encoder(embeddings(pixel_values)))`, of parts that are given built.

    See `jax_attn.models.vision_transformer.VisionTransformer`, its twin, for the arguments.

    Source: Dosovitskiy et al. (arXiv 2010.11929), section 3.1.
    """

    @checked()
    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None):
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> EncoderOutput:
        """`(b, channels, height, width)`, or without `b`, and which patches are hidden, to both outputs."""
        hidden = self.encoder(self.embeddings(pixel_values.movedim(-3, -1), bool_masked_pos))
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
