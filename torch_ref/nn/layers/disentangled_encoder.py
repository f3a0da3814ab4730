"""Encoder layers that share one table of relative positions."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torch_ref.checks import checked
from torch_ref.nn.layers.stack import Stack


class DisentangledEncoder(Stack):
    """A `Stack` that owns the relative embeddings of DeBERTa and calls each layer with `relative=norm(table)`.

    See `jax_attn.nn.layers.disentangled_encoder.DisentangledEncoder`, its twin, for the arguments.

    Source: He et al. (arXiv 2006.03754), section 3.1; the norm: DeBERTa-v2, in its code.
    """

    @checked()
    def __init__(
        self,
        layers: Sequence[Any],
        relative: Any = None,
        relative_norm: Any = None,
        *,
        scan: bool = False,
        remat: bool = False,
    ):
        super().__init__(layers, scan=scan, remat=remat)
        self.relative = relative
        self.relative_norm = relative_norm

    def forward(self, x: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; mask and options as in `DisentangledAttention`."""
        table = None if self.relative is None else self.relative.weight
        if table is not None and self.relative_norm is not None:
            table = self.relative_norm(table)
        return super().forward(x, mask, relative=table, **options)
