"""A Transformer that looks at images: pixels to a vector for each patch, and one for the image."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked
from jax_attn.models.text_encoder import EncoderOutput


class VisionTransformer(nnx.Module):
    """`pooler(encoder(embeddings(pixel_values)))`, of parts that are given built.

    Images come as image processors give them, and as in torch: channels before height and width. (The layers below
    have channels last, as everywhere in JAX; turning them costs a copy of the image, or nothing under `jit`.)

    Parameters: those of its parts, under `embeddings`, `encoder` and `pooler`.

    Args:
        embeddings: images to vectors, as `PatchEmbeddings`.
        encoder: the layers, as `Encoder` or a `Stack`.
        pooler: the patches' vectors to that of the image, as `Pooler`; None is none.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: as in the parts, or the images are not `(b, channels, height, width)`, or one without `b`, of a
            size that the embeddings take.

    Source: Dosovitskiy et al. (arXiv 2010.11929), section 3.1.
    """

    @checked
    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None, *, rngs: nnx.Rngs | None = None):
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def __call__(
        self,
        pixel_values: Float[Array, "*b c h w"],
        bool_masked_pos: Bool[Array, "*b p"] | None = None,
    ) -> EncoderOutput:
        """Look at the images.

        Args:
            pixel_values: `(b, channels, height, width)`, or one image without `b`.
            bool_masked_pos: `(b, number of patches)`, True for those that are hidden; None is none.
        """
        channels, *size = pixel_values.shape[-3:]
        if pixel_values.ndim not in (3, 4) or not self.embeddings.takes((*size, channels)):
            *size, channels = self.embeddings.wanted
            shape = ", ".join(map(str, ("b", channels, *size)))
            raise ValueError(f"pixel_values must have shape ({shape}), got {pixel_values.shape}")
        hidden = self.encoder(self.embeddings(jnp.moveaxis(pixel_values, -3, -1), bool_masked_pos))
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
