"""Encoder layers that share one table of relative positions."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked
from jax_attn.nn.layers.stack import Stack


class DisentangledEncoder(Stack):
    """A `Stack` that owns the relative embeddings of DeBERTa and calls each layer with `relative=norm(table)`.

    Parameters: `layers.…` as in `Stack`; `relative.embedding` `(2 span, embed_dim)`; `relative_norm`.

    Args:
        layers: the layers, each with a `DisentangledAttention` of its own.
        relative: the table, as `Embedding`, built; None is that the attentions have no relative positions.
        relative_norm: a norm of the table, built; None is none.
        scan: whether the layers are stacked, as in `Stack`.
        remat: whether the backward pass computes each layer again, in place of keeping what is inside it.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: as in `Stack`, and as in the attentions.

    Source: He et al. (arXiv 2006.03754), section 3.1; the norm: DeBERTa-v2, in its code.
    """

    @checked
    def __init__(
        self,
        layers: Sequence[Any],
        relative: Any = None,
        relative_norm: Any = None,
        *,
        scan: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(layers, scan=scan, remat=remat)
        self.relative = relative
        self.relative_norm = relative_norm

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None = None, **options: Any
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape; mask and options as in `DisentangledAttention`."""
        return super().__call__(x, mask, relative=self._table(), **options)

    def _table(self) -> Array | None:
        if self.relative is None:
            return None
        table = self.relative.embedding[...]
        return table if self.relative_norm is None else self.relative_norm(table)
