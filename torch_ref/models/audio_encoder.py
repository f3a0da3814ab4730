"""An encoder of sound: the frames of a spectrogram to vectors."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.models.text_encoder import EncoderOutput


class AudioEncoder(nn.Module):
    """`encoder(dropout(positions(stem(features))))`, of parts that are given built.

    See `jax_attn.models.audio_encoder.AudioEncoder`, its twin, for the arguments.

    Source: Radford et al. (arXiv 2212.04356), section 2.2.
    """

    @checked()
    def __init__(self, stem: Any, positions: Any, encoder: Any, dropout: float = 0.0):
        super().__init__()
        self.stem = stem
        self.positions = positions
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, attention_mask: None = None) -> EncoderOutput:
        """`(b, bands, frames)`, or without `b`, to vectors."""
        hidden = self.dropout(self.positions(self.stem(features.transpose(-1, -2))))
        return EncoderOutput(self.encoder(hidden), None)
