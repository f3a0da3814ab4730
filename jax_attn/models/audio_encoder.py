"""An encoder of sound: the frames of a spectrogram to vectors."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked
from jax_attn.models.text_encoder import EncoderOutput
from jax_attn.nn.primitives import Dropout


class AudioEncoder(nnx.Module):
    """`encoder(dropout(positions(stem(features))))`, of parts that are given built.

    Parameters: those of its parts, under `stem`, `positions` and `encoder`.

    Args:
        stem: frames to vectors, as `ConvolutionStem`.
        positions: adds to the vectors where they stand, as `SinusoidalPositions`.
        encoder: the layers, as a `Stack`.
        dropout: probability of dropping an element of what the layers read, while training.
        rngs: source of dropout.

    Raises:
        ValueError: as in the parts, or there is a mask.

    Source: Radford et al. (arXiv 2212.04356), section 2.2.
    """

    @checked
    def __init__(self, stem: Any, positions: Any, encoder: Any, dropout: float = 0.0, *, rngs: nnx.Rngs):
        self.stem = stem
        self.positions = positions
        self.encoder = encoder
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, features: Float[Array, "*b f s"], attention_mask: None = None) -> EncoderOutput:
        """Read the sound.

        Args:
            features: `(b, bands, frames)`, as audio front ends give them: the frames are the last axis.
            attention_mask: has to be None: silence is read as such.
        """
        if attention_mask is not None:
            raise ValueError("attention_mask must be None: an encoder of sound reads silence too")
        hidden = self.dropout(self.positions(self.stem(jnp.swapaxes(features, -1, -2))))
        return EncoderOutput(self.encoder(hidden), None)
