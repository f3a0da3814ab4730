"""From the vectors of an image to one score for each class, by its class token and by its patches."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class ImageClassificationHead(nn.Module):
    """`[x_0, mean(x_n, x_{n+1}, ...)] W + b`: the class token beside the mean of the patches, which are read apart.

    See `jax_attn.nn.layers.image_classification_head.ImageClassificationHead`, its twin, for the arguments.

    Source: Oquab et al. (arXiv 2304.07193), section 7.1, as transformers' Dinov2ForImageClassification.
    """

    @checked()
    def __init__(self, embed_dim: int, num_classes: int, num_registers: int = 0):
        super().__init__()
        self.first_patch = 1 + num_registers
        self.linear = nn.Linear(2 * embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to logits `(num_classes,)`, or `(b, t, d)` to `(b, num_classes)`."""
        patches = x[..., self.first_patch :, :].mean(dim=-2)
        return self.linear(torch.cat([x[..., 0, :], patches], dim=-1))
