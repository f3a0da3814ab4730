"""`torch.nn.MultiheadAttention`, whole: its constructor, its call and its weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.checks import require_divisible, require_positive
from jax_attn.nn.primitives import Dropout, Linear

Mask = Bool[Array, "..."] | Float[Array, "..."]


class TorchMultiheadAttention(nnx.Module):
    """Multi-head attention with the call, the weights and the mask meaning of `torch.nn.MultiheadAttention`.

    `out_proj(concat_n(softmax(Q_n K_nᵀ / sqrt(embed_dim / num_heads) + M) V_n))` with
    `Q = query Wqᵀ + bq`, `K = key Wkᵀ + bk`, `V = value Wvᵀ + bv`. `add_bias_kv` puts a learnt key and value
    behind the last of `K` and `V`, `add_zero_attn` a key and value of zeros behind those; no mask reaches
    either. `M` is the sum of the two masks. Dropout acts on the weights, also on those returned, as in torch.

    **Masks have torch's meaning: True = masked out**, the opposite of the rest of this package; a float mask
    is added to the scores. A query whose keys are all masked gets weights 0 and output `out_proj(0)`; torch
    gives NaN there with `need_weights=True`.

    Parameters, in torch's layout: `in_proj_weight` `(3 * embed_dim, embed_dim)`, or, where `kdim` or `vdim`
    differ from `embed_dim`, `q_proj_weight` `(embed_dim, embed_dim)`, `k_proj_weight` `(embed_dim, kdim)` and
    `v_proj_weight` `(embed_dim, vdim)`; `in_proj_bias` `(3 * embed_dim,)` with `bias`; `bias_k`, `bias_v`
    `(1, 1, embed_dim)` with `add_bias_kv`; `out_proj` kernel `(embed_dim, embed_dim)`, and bias with `bias`.
    They start as torch's: Xavier-uniform (over all three projections at once in `in_proj_weight`), biases 0,
    `bias_k` and `bias_v` Xavier-normal.

    Args:
        embed_dim: width of the query and of the output, all heads together.
        num_heads: number of heads; divides `embed_dim`.
        dropout: probability of dropping an attention weight while training.
        bias: whether the input and output projections have a bias.
        add_bias_kv: whether a learnt key and value are added.
        add_zero_attn: whether a key and value of zeros are added.
        kdim: width of the keys; None is `embed_dim`.
        vdim: width of the values; None is `embed_dim`.
        batch_first: whether batched arrays are `(b, t, d)`; torch's default, False, is `(t, b, d)`.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`; a size is below 1; `dropout` is no probability;
            query, key, value or a mask has another shape or dtype than the call describes; `is_causal`
            without `attn_mask`.

    Source: `torch.nn.MultiheadAttention`; "Attention Is All You Need" (arXiv 1706.03762), section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        require_positive("kdim", self.kdim)
        require_positive("vdim", self.vdim)
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first
        self.dtype = dtype

        def parameter(init: jax.nn.initializers.Initializer, *shape: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), shape, param_dtype))

        # torch's weights are (out, in).
        xavier = jax.nn.initializers.xavier_uniform(in_axis=-1, out_axis=-2)
        self.fused = self.kdim == embed_dim and self.vdim == embed_dim
        if self.fused:
            self.in_proj_weight = parameter(xavier, 3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight = parameter(xavier, embed_dim, embed_dim)
            self.k_proj_weight = parameter(xavier, embed_dim, self.kdim)
            self.v_proj_weight = parameter(xavier, embed_dim, self.vdim)
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * embed_dim, param_dtype)) if bias else None
        self.out_proj = Linear(
            embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        if self.out_proj.bias is not None:
            self.out_proj.bias[...] = jnp.zeros(embed_dim, param_dtype)

        # xavier_normal_ reads (1, 1, E) as a convolution of width E from one channel to one: std 1 / sqrt(E).
        normal = jax.nn.initializers.normal(embed_dim**-0.5)
        self.bias_k = parameter(normal, 1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = parameter(normal, 1, 1, embed_dim) if add_bias_kv else None
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "..."],
        key: Float[Array, "..."],
        value: Float[Array, "..."],
        key_padding_mask: Mask | None = None,
        need_weights: bool = True,
        attn_mask: Mask | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        """Attention of `query` over `key` and `value`, and its weights.

        Args:
            query: `(t, embed_dim)`, `(t, b, embed_dim)`, or with `batch_first` `(b, t, embed_dim)`.
            key: the same with `s` tokens of width `kdim`.
            value: the same with `s` tokens of width `vdim`.
            key_padding_mask: `(b, s)`, or `(s,)` where the query has no batch axis; True = masked, or a float
                to add.
            need_weights: whether to return the attention weights.
            attn_mask: `(t, s)`, or `(b * num_heads, t, s)` for a mask for each head; True = masked, or a
                float to add.
            average_attn_weights: whether the weights are returned as their mean over the heads.
            is_causal: a promise that `attn_mask` is the causal mask. As in torch, it is taken at its word,
                and `attn_mask` not looked at, where weights are not needed and there is no
                `key_padding_mask`; added keys count as later positions then, so only late queries see them.
                Else `attn_mask` holds.

        Returns:
            The output, shaped as `query`, and the weights: `(b, t, s)`, or `(b, num_heads, t, s)` unless
            averaged, without `b` where the query has none; None unless `need_weights`. `s` counts added keys.
        """
        as_given = (2, 3)
        sequences = {"query": (query, self.embed_dim), "key": (key, self.kdim), "value": (value, self.vdim)}
        for name, (x, width) in sequences.items():
            self._require_shape(name, x, width, as_given)
            as_given = (query.ndim,)
        unbatched = query.ndim == 2
        query, key, value = (self._batch_first(x) for x in (query, key, value))
        if not query.shape[0] == key.shape[0] == value.shape[0] or key.shape[1] != value.shape[1]:
            raise ValueError(
                "query, key and value must have one batch size, and key and value one length, got (b, t) "
                f"{query.shape[:2]}, {key.shape[:2]} and {value.shape[:2]}"
            )
        (batch, tokens, _), others = query.shape, key.shape[1]
        if key_padding_mask is not None:
            shape = (others,) if unbatched else (batch, others)
            _require_mask("key_padding_mask", key_padding_mask, [shape])
        if attn_mask is not None:
            shapes = [(tokens, others), (batch * self.num_heads, tokens, others)]
            _require_mask("attn_mask", attn_mask, shapes)
        elif is_causal:
            raise ValueError(
                "is_causal is a hint that attn_mask is causal: it needs attn_mask, got attn_mask=None"
            )

        masks = []
        trust_hint = is_causal and key_padding_mask is None and not need_weights
        if attn_mask is not None and not trust_hint:
            sheets = (1, 1) if attn_mask.ndim == 2 else (batch, self.num_heads)
            masks.append(attn_mask.reshape(*sheets, tokens, others))
        if key_padding_mask is not None:
            masks.append(key_padding_mask.reshape(batch, 1, 1, others))

        queries, keys, values = self._project(query, key, value)
        keep, bias = _keep_and_bias(masks, added=keys.shape[1] - others)
        rate = 0.0 if self.dropout.deterministic else self.dropout.rate
        attended = dot_product_attention(
            *(x.reshape(*x.shape[:2], self.num_heads, self.head_dim) for x in (queries, keys, values)),
            bias=bias,
            mask=keep,
            is_causal=trust_hint,
            dropout_rate=rate,
            dropout_key=self.dropout.rngs() if rate > 0 else None,
            return_weights=need_weights,
        )
        context, weights = attended if isinstance(attended, tuple) else (attended, None)
        output = self.out_proj(context.reshape(batch, tokens, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(axis=1)

        if unbatched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.swapaxes(0, 1), weights

    def _require_shape(self, name: str, x: Array, width: int, ndims: tuple[int, ...]) -> None:
        if x.ndim not in ndims or x.shape[-1] != width:
            layouts = {2: f"(t, {width})", 3: f"(b, t, {width})" if self.batch_first else f"(t, b, {width})"}
            expected = " or ".join(layouts[n] for n in ndims)
            raise ValueError(f"{name} must have shape {expected}, got {tuple(x.shape)}")

    def _batch_first(self, x: Float[Array, "..."]) -> Float[Array, "b t d"]:
        if x.ndim == 2:
            return x[None]
        return x if self.batch_first else x.swapaxes(0, 1)

    def _project(
        self, query: Float[Array, "b t e"], key: Float[Array, "b s k"], value: Float[Array, "b s v"]
    ) -> tuple[Float[Array, "b t e"], Float[Array, "b s1 e"], Float[Array, "b s1 e"]]:
        """Queries, keys and values, the added keys and values behind the others."""
        if self.fused:
            weights = jnp.split(self.in_proj_weight[...], 3)
        else:
            weights = [self.q_proj_weight[...], self.k_proj_weight[...], self.v_proj_weight[...]]
        biases = [None] * 3 if self.in_proj_bias is None else jnp.split(self.in_proj_bias[...], 3)
        added = [None, *(None if x is None else x[...] for x in (self.bias_k, self.bias_v))]

        projected = []
        for x, weight, bias, extra in zip((query, key, value), weights, biases, added, strict=True):
            x, weight, bias, extra = promote_dtype((x, weight, bias, extra), dtype=self.dtype)
            x = x @ weight.T
            if bias is not None:
                x += bias
            if extra is not None:
                x = jnp.concatenate([x, jnp.broadcast_to(extra, (x.shape[0], 1, self.embed_dim))], axis=1)
            projected.append(x)
        if self.add_zero_attn:
            projected[1:] = [jnp.pad(x, [(0, 0), (0, 1), (0, 0)]) for x in projected[1:]]
        queries, keys, values = projected
        return queries, keys, values


def _require_mask(name: str, mask: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    dtype = getattr(mask, "dtype", None)
    if dtype is None or not (dtype == np.bool_ or jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"{name} must be a boolean (True = masked) or floating array, got {dtype or type(mask)}"
        )
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}")


def _keep_and_bias(
    masks: Sequence[Mask], added: int
) -> tuple[Bool[Array, "..."] | None, Float[Array, "..."] | None]:
    """Masks of torch's meaning as one mask in which True = attend, and one additive term.

    `added` keys behind the last stay in sight: False, or 0 to add.
    """
    keep = bias = None
    for mask in masks:
        mask = jnp.pad(mask, [(0, 0)] * 3 + [(0, added)])
        if mask.dtype == bool:
            keep = ~mask if keep is None else keep & ~mask
        else:
            bias = mask if bias is None else bias + mask
    return keep, bias
