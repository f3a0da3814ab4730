"""Attention whose scores compare content with position as well as with content."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.attention import Implementation
from jax_attn.functional.buckets import check_log_buckets, log_bucket
from jax_attn.functional.checks import (
    checked,
    require_divisible,
    require_last_dim,
    require_positive,
    require_some,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.attention.attend import attend, call_unbatched, known_implementation, require_positions
from jax_attn.nn.attention.seen import four_axes
from jax_attn.nn.positions.attention_positions import Places
from jax_attn.nn.primitives import Dropout, Linear

KINDS = ("c2p", "p2c")


class DisentangledAttention(nnx.Module):
    """Disentangled attention of DeBERTa: content to content, content to position, position to content.

    `score_ij = (q_i · k_j + q_i · K[δ(i, j)] + k_j · Q[δ(i, j)]) / sqrt(head_dim · (1 + number of kinds))`, where
    row `δ(i, j)` of a table of relative embeddings, which all layers share, tells how far `i` is after `j`; `K` and
    `Q` are projections of that table. `δ = clip(bucket(i - j) + span, 0, 2 span - 1)`, with log buckets and
    `span = position_buckets`, or with the distance itself and `span = max_relative_positions`.

    The products with the table are taken once, `(b, num_heads, t, 2 span)`, and looked up for each pair.

    Parameters: `q_proj`, `k_proj`, `v_proj` `(embed_dim, num_heads * head_dim)`, `out_proj`
    `(num_heads * head_dim, embed_dim)`; unless `share_att_key`, `pos_k_proj` and `pos_q_proj` as `k_proj`, for
    "c2p" and "p2c".

    Args:
        embed_dim: width of the input and of the relative embeddings.
        num_heads: number of heads; it divides `embed_dim` where `head_dim` is not given.
        max_relative_positions: how far apart two tokens are told apart.
        position_buckets: number of log buckets to each side, even; None is none.
        pos_att_type: the kinds of scores beside content to content, some of "c2p" and "p2c".
        share_att_key: whether positions are projected by `k_proj` and `q_proj`.
        dropout: probability of dropping an attention weight while training.
        position_dropout: the same of an element of the relative embeddings.
        bias: whether the projections have a bias.
        head_dim: width of a head; None is `embed_dim / num_heads`.
        implementation: which one of `dot_product_attention` computes; None is the best.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: sizes that do not divide or are below 1, buckets that do not fit, a kind that is not known, an
            input or a table of another shape, or a mask that is not boolean or does not fit.

    Source: He et al. (arXiv 2006.03754), section 3.1; buckets and shared projections as DeBERTa-v3 (2111.09543) and
        transformers' DebertaV2. Where that masks whole rows of padding, a mask over keys is enough here.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "pos_k_proj": ("embed", "heads"),
        "pos_q_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_relative_positions: int,
        position_buckets: int | None = None,
        pos_att_type: Sequence[str] = KINDS,
        share_att_key: bool = False,
        dropout: float = 0.0,
        position_dropout: float = 0.0,
        bias: bool = True,
        head_dim: int | None = None,
        *,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if head_dim is None:
            head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        require_positive("num_heads", num_heads)
        require_positive("head_dim", head_dim)
        require_positive("max_relative_positions", max_relative_positions)
        require_some("pos_att_type", pos_att_type, KINDS)
        if position_buckets is not None:
            names = ("position_buckets", "max_relative_positions")
            check_log_buckets(position_buckets, max_relative_positions, names)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.max_relative_positions = max_relative_positions
        self.position_buckets = position_buckets
        self.span = max_relative_positions if position_buckets is None else position_buckets
        self.pos_att_type = tuple(dict.fromkeys(pos_att_type))
        self.share_att_key = share_att_key
        self.scale = (head_dim * (1 + len(self.pos_att_type))) ** -0.5
        self.implementation = known_implementation(implementation)
        self.dtype = dtype

        def linear(d_in: int = embed_dim, d_out: int = num_heads * head_dim) -> Linear:
            return Linear(d_in, d_out, bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj, self.k_proj, self.v_proj = linear(), linear(), linear()
        own = () if share_att_key else self.pos_att_type
        self.pos_k_proj = linear() if "c2p" in own else None
        self.pos_q_proj = linear() if "p2c" in own else None
        self.out_proj = linear(num_heads * head_dim, embed_dim)
        self.position_dropout = Dropout(position_dropout, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        relative: Float[Array, "r d"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "*b t"] | None = None,
        segment_ids: Int[Array, "*b t"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then mask and positions have no batch axis either.
            relative: `(2 span, embed_dim)`, an embedding of each relative position, those of keys that are far
                ahead first; None where `pos_att_type` is empty.
            mask: True = attend. `(b, t)` tells which keys may be seen; `(b, t, t)` and `(b, num_heads, t, t)` which
                query may see which. Any axis may be 1.
            positions: `(b, t)`, where the tokens stand; None counts from 0.
            segment_ids: `(b, t)`; a token sees those of its own segment, where several are packed into one row.
            return_weights: also return the weights `(b, num_heads, t, t)`, dropout included.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`. With `return_weights`
            a tuple: the output and the weights.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if x.ndim == 2:
            shared = {"relative": relative, "return_weights": return_weights}
            given = {"mask": mask, "positions": positions, "segment_ids": segment_ids}
            return call_unbatched(self, x, None, shared, **given)
        self._check(relative)
        require_positions("positions", positions, *x.shape[:2])
        query, key, value = (self._split_heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        batch, tokens, _ = x.shape
        scores = (batch, self.num_heads, tokens, tokens)
        changes = {
            "mask": None if mask is None else four_axes(mask, scores),
            "score_mod": self._score_mod(query, key, relative, Places(positions, positions)),
            "segment_ids": segment_ids,
        }
        heads, weights = attend(self, query, key, value, return_weights, scale=self.scale, **changes)
        output = self.out_proj(heads.reshape(batch, tokens, self.num_heads * self.head_dim))
        return (output, weights) if return_weights else output

    def init_cache(self, batch: int, length: int) -> None:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError("disentangled attention has no cache: a token sees those after it too")

    def _score_mod(
        self,
        query: Float[Array, "B T N H"],
        key: Float[Array, "B T N H"],
        relative: Array | None,
        places: Places,
    ) -> ScoreMod | None:
        """What is added to the scores, asked about indices."""
        if relative is None or query.size == 0:
            return None
        relative = self.position_dropout(relative)
        of_keys = self.k_proj if self.share_att_key else self.pos_k_proj
        of_queries = self.q_proj if self.share_att_key else self.pos_q_proj
        c2p = self._products(query, of_keys, relative) if "c2p" in self.pos_att_type else None
        p2c = self._products(key, of_queries, relative) if "p2c" in self.pos_att_type else None

        def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
            row = self.rows(-places.distance(b, q_idx, kv_idx))
            score = score if c2p is None else score + c2p[b, h, q_idx, row]
            return score if p2c is None else score + p2c[b, h, kv_idx, row]

        return score_mod

    def _products(
        self, content: Float[Array, "B T N H"], projection: Any, relative: Float[Array, "r d"]
    ) -> Float[Array, "B N T r"]:
        """The scaled products of each query or key with every position, in the dtype of the scores."""
        position = self._split_heads(projection(relative)).astype(content.dtype)
        wide = accumulator(content.dtype)
        return jnp.einsum("btnh,rnh->bntr", content, position, preferred_element_type=wide) * self.scale

    def rows(self, distance: Int[Array, "..."]) -> Int[Array, "..."]:
        """Which row of the table stands for tokens that are `distance` after what they look at."""
        if self.position_buckets is not None:
            distance = log_bucket(distance, self.position_buckets, self.max_relative_positions)
        return jnp.clip(distance + self.span, 0, 2 * self.span - 1)

    def _split_heads(self, projected: Float[Array, "*b t nh"]) -> Float[Array, "*b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:-1], self.num_heads, self.head_dim)

    def _check(self, relative: Array | None) -> None:
        """Raise ValueError unless the table is what the kinds of scores need."""
        if not self.pos_att_type and relative is not None:
            raise ValueError("relative must be None where pos_att_type is empty")
        expected = (2 * self.span, self.embed_dim)
        if self.pos_att_type and (relative is None or relative.shape != expected):
            given = None if relative is None else relative.shape
            raise ValueError(f"relative must have shape {expected}, got {given}")
