"""Mixing of tokens by the Fourier transform, in attention's place and with nothing to learn."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class FourierMixing(nn.Module):
    """`Re(F_t x F_d)`: the real part of the Fourier transform over tokens and features.

    See `jax_attn.nn.attention.fourier.FourierMixing`, its twin. torch transforms no 16 bits: they are widened.

    Source: Lee-Thorp et al. (arXiv 2105.03824).
    """

    @checked()
    def __init__(self, embed_dim: int):
        super().__init__()
        self.embed_dim = embed_dim

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        if not x.numel():  # MKL transforms no empty batch
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.fft.fftn(wide, dim=(-2, -1)).real.to(x.dtype)
