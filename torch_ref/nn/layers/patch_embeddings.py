"""From an image to one vector for each of its patches."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class PatchEmbeddings(nn.Module):
    """`dropout([class, patch_1 W + b, patch_2 W + b, ...] + position)`, patches row by row.

    See `jax_attn.nn.layers.patch_embeddings.PatchEmbeddings`, its twin, for the arguments. Here too the channels
    are the image's last axis.

    Source: Dosovitskiy et al. (arXiv 2010.11929), section 3.1.
    """

    @checked(resize=(None, "bicubic", "bicubic_antialias"))
    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        num_channels: int,
        embed_dim: int,
        class_token: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        num_registers: int = 0,
        mask_token: bool = False,
        resize: str | None = None,
    ):
        super().__init__()
        height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
        rows, columns = (patch_size,) * 2 if isinstance(patch_size, int) else patch_size
        self.projection = nn.Conv2d(num_channels, embed_dim, (rows, columns), (rows, columns), bias=bias)
        self.grid = height // rows, width // columns
        self.resize = resize
        vectors = (height // rows) * (width // columns) + class_token
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim)) if class_token else None
        self.position = nn.Parameter(0.02 * torch.randn(1, vectors, embed_dim))
        self.registers = (
            nn.Parameter(0.02 * torch.randn(1, num_registers, embed_dim)) if num_registers else None
        )
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim)) if mask_token else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`(h, w, c)` to `(number of vectors, embed_dim)`, or the same with a batch axis before."""
        patches = self.projection(images.movedim(-1, -3))
        x = patches.flatten(-2).transpose(-1, -2)
        if hidden is not None and self.mask_token is not None:
            x = torch.where(hidden[..., None], self.mask_token, x)
        first = 0
        if self.class_token is not None:
            first = 1
            x = torch.cat([self.class_token[0].expand(*x.shape[:-2], 1, -1), x], dim=-2)
        x = x + self.positions(patches.shape[-2:], first)
        if self.registers is not None:
            registers = self.registers[0].expand(*x.shape[:-2], -1, -1)
            x = torch.cat([x[..., :first, :], registers, x[..., first:, :]], dim=-2)
        return self.dropout(x)

    def positions(self, size: torch.Size, first: int) -> Tensor:
        """The position of each vector, in a grid of patches of this size."""
        if tuple(size) == self.grid:
            return self.position[0]
        grid = self.position[:, first:].unflatten(1, self.grid).permute(0, 3, 1, 2)
        antialias = self.resize == "bicubic_antialias"
        grid = nn.functional.interpolate(grid, tuple(size), mode="bicubic", antialias=antialias)
        return torch.cat([self.position[0, :first], grid[0].flatten(1).T])
