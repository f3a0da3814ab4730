"""Attention whose keys and values are kept as one short vector a token."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.attention import Implementation
from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.functional.dispatch import has_many_scores
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.sharding import explicit_sharding
from jax_attn.nn.attention.attend import attend, call_unbatched, known_implementation, require_positions
from jax_attn.nn.attention.cache import KVCache, require_cache, require_cacheable
from jax_attn.nn.attention.seen import both, four_axes, real_tokens, what_is_seen
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, require_attention_positions
from jax_attn.nn.primitives import Dropout, Linear, RMSNorm


class LatentAttention(nnx.Module):
    """Multi-head latent attention (MLA): keys and values of all heads come from one latent vector a token.

    `c = norm(x W_kv_a)` is the latent, `k_i = [c W_k,i ; rotate(x W_kr)]` and `v_i = c W_v,i`, where all heads
    share the rotary part; `q_i = [h W_q,i ; rotate(h W_qr,i)]` with `h = norm(x W_q_a)`, or `h = x`. So a cache
    holds `kv_lora_rank + qk_rope_head_dim` numbers a token, and no more.

    In the absorbed form `q_i · k_i = [q_i W_k,iᵀ ; rotate(q_ri)] · [c ; k_r]`: the queries go to the latents, and
    the keys of all heads are never made. It is multi-query attention with wide heads, equal to the plain form but
    for the order of sums. The form that takes fewer products is chosen: over a long cache the absorbed one.

    Parameters, with `nope`, `rope`, `v` for the three widths of a head: `q_a_proj` `(embed_dim, q_lora_rank)`,
    `q_a_norm`, `q_b_proj` `(q_lora_rank, num_heads * (nope + rope))`, or `q_proj` in place of the three;
    `kv_a_proj` `(embed_dim, kv_lora_rank + rope)`, `kv_a_norm`, `kv_b_proj`
    `(kv_lora_rank, num_heads * (nope + v))`, each head's key before its value; `out_proj`
    `(num_heads * v, embed_dim)`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads.
        kv_lora_rank: width of the latent.
        qk_nope_head_dim: width of the part of a query or key that knows no positions.
        qk_rope_head_dim: width of the part that does.
        v_head_dim: width of a value; None is `qk_nope_head_dim`.
        q_lora_rank: width of what queries are made of; None makes them from the input.
        dropout: probability of dropping an attention weight while training.
        bias: whether the projections from and to `embed_dim` have a bias (but for `q_proj`).
        is_causal: whether a query sees nothing after itself.
        positions: how positions act on the rotary part; None is not at all. DeepSeek's are
            `RotaryPositions(qk_rope_head_dim, interleaved=True)`.
        scale: factor of the scores; None is `(qk_nope_head_dim + qk_rope_head_dim)^-1/2`. DeepSeek's YaRN
            multiplies it by `(0.1 mscale_all_dim · ln(factor) + 1)²`.
        norm_eps: epsilon of the two RMS norms.
        window: how many tokens a query sees before it, itself among them; and after it, where not causal.
        implementation: which one of `dot_product_attention` computes; None is the best.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size below 1, positions that do not fit, an input of another width or rank, or a mask that is
            not boolean or does not fit.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1; layout of the projections as transformers' DeepseekV3.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "q_a_proj": ("embed", "rank"),
        "q_b_proj": ("rank", "heads"),
        "kv_a_proj": ("embed", "rank"),
        "kv_b_proj": ("rank", "heads"),
        "out_proj": ("heads", "embed"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int | None = None,
        q_lora_rank: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        is_causal: bool = False,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        norm_eps: float = 1e-6,
        window: int | None = None,
        *,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        v_head_dim = qk_nope_head_dim if v_head_dim is None else v_head_dim
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kv_lora_rank": kv_lora_rank,
                 "qk_nope_head_dim": qk_nope_head_dim, "qk_rope_head_dim": qk_rope_head_dim,
                 "v_head_dim": v_head_dim, "q_lora_rank": 1 if q_lora_rank is None else q_lora_rank}  # fmt: skip
        sizes |= {} if window is None else {"window": window}
        for name, size in sizes.items():
            require_positive(name, size)
        if positions is not None:
            require_attention_positions(positions)
            positions.check_heads(num_heads, qk_rope_head_dim)
            if positions.needs_weights:
                raise ValueError(
                    "positions must not act on the values: here they act on the rotary part alone"
                )
        query_dim = qk_nope_head_dim + qk_rope_head_dim
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.kv_lora_rank = kv_lora_rank
        self.nope = qk_nope_head_dim
        self.rope = qk_rope_head_dim
        self.v_head_dim = v_head_dim
        self.is_causal = is_causal
        self.window = window
        self.positions = positions
        self.scale = query_dim**-0.5 if scale is None else scale
        self.implementation = known_implementation(implementation)
        self.dtype = dtype
        self.param_dtype = param_dtype

        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        heads, low = num_heads * query_dim, q_lora_rank
        self.q_proj: Any = Linear(embed_dim, heads, False, **options) if low is None else None
        self.q_a_proj: Any = None if low is None else Linear(embed_dim, low, bias, **options)
        self.q_a_norm: Any = None if low is None else RMSNorm(low, norm_eps, **options)
        self.q_b_proj: Any = None if low is None else Linear(low, heads, False, **options)
        self.kv_a_proj = Linear(embed_dim, kv_lora_rank + qk_rope_head_dim, bias, **options)
        self.kv_a_norm = RMSNorm(kv_lora_rank, norm_eps, **options)
        self.kv_b_proj = Linear(kv_lora_rank, num_heads * (qk_nope_head_dim + v_head_dim), False, **options)
        self.out_proj = Linear(num_heads * v_head_dim, embed_dim, bias, **options)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "*b t"] | None = None,
        segment_ids: Int[Array, "*b t"] | None = None,
        cache: KVCache | None = None,
        absorbed: bool | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to itself, and to what the cache holds.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            mask: True = attend. `(b, t)` tells which keys may be seen; `(b, t, t)` and `(b, num_heads, t, t)` which
                query may see which. Any axis may be 1. With a cache: `(b, t)`, which tokens are no padding.
            positions: `(b, t)`, where the tokens stand; None counts from 0, or goes on where the cache ends.
            segment_ids: `(b, t)`; a token sees those of its own segment, where several are packed into one row.
            cache: of `init_cache`: attend to the tokens before too.
            absorbed: which form is computed; None is the one that takes fewer products.
            return_weights: also return the weights `(b, num_heads, t, s)`, dropout included.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`. With `return_weights`
            or a cache a tuple: the output, the weights if asked for, the new cache if there was one.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if x.ndim == 2:
            shared = {"absorbed": absorbed, "return_weights": return_weights}
            given = {"mask": mask, "positions": positions, "segment_ids": segment_ids}
            return call_unbatched(self, x, cache, shared, **given)
        require_positions("positions", positions, *x.shape[:2])
        if cache is None:
            rotary, latent = self._compressed(x, positions)
            places = Places(positions, positions)
        else:
            for name, given in (("positions", positions), ("segment_ids", segment_ids)):
                if given is not None:
                    raise ValueError(f"{name} cannot be given together with a cache")
            require_cache(cache, KVCache)
            require_cacheable(self.is_causal, self.positions, cache.most)
            cache.check(self, *x.shape[:2], 1, (self.rope, self.kv_lora_rank), self.window)
            at = cache.next_positions(*x.shape[:2], real_tokens(mask, *x.shape[:2]))
            cache, rotary, latent, places = cache.append(*self._compressed(x, at), at)
            mask = None
        nope, turned = self._queries(x, places.query)
        rotary, latent = rotary.astype(nope.dtype), latent.astype(nope.dtype)

        scores = (x.shape[0], self.num_heads, x.shape[1], latent.shape[1])
        mask = None if mask is None else four_axes(mask, scores)
        seen = what_is_seen(
            scores,
            places,
            is_causal=self.is_causal,
            window=self.window,
            mask_mod=None,
            by_position=cache is not None,
            in_blocks=has_many_scores(turned, rotary),
        )
        seen |= {"mask": both(mask, seen.get("mask")), "segment_ids": segment_ids}
        if self.positions is not None:
            seen["score_mod"] = self.positions.score_mod(turned, self.scale, places)
        if absorbed is None:
            absorbed = self._absorbing_is_less(*scores[2:])
        form = self._absorbed if absorbed else self._plain
        heads, weights = form(nope, turned, latent, rotary, return_weights, scale=self.scale, **seen)
        output = self.out_proj(heads.reshape(*x.shape[:2], self.num_heads * self.v_head_dim))
        asked = [*([weights] if return_weights else []), *([cache] if cache is not None else [])]
        return (output, *asked) if asked else output

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> KVCache:
        """An empty cache for `length` tokens of `batch` sequences; with a window it rolls, and holds no more.

        Its keys are the rotary parts `(batch, length, 1, qk_rope_head_dim)`, its values the latents
        `(batch, length, 1, kv_lora_rank)`.

        Raises:
            ValueError: the attention is not causal, or its positions cannot be computed token by token.
        """
        dtype = dtype or self.dtype or self.param_dtype
        widths = self.rope, self.kv_lora_rank
        cache = KVCache.empty(self, batch, length, 1, widths, dtype, self.window)
        require_cacheable(self.is_causal, self.positions, cache.most)
        return cache

    def _queries(
        self, x: Float[Array, "B T D"], at: Int[Array, "B T"] | None
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N R"]]:
        """The two parts of the queries, the second turned."""
        if self.q_a_proj is None:
            queries = self.q_proj(x)
        else:
            queries = self.q_b_proj(self.q_a_norm(self.q_a_proj(x)))
        nope, rope = jnp.split(self._split_heads(queries, self.nope + self.rope), [self.nope], axis=-1)
        return nope, rope if self.positions is None else self.positions.rotate(rope, at)

    def _compressed(
        self, x: Float[Array, "B T D"], at: Int[Array, "B T"] | None
    ) -> tuple[Float[Array, "B T 1 R"], Float[Array, "B T 1 C"]]:
        """What is kept of tokens: the rotary part of their keys, turned, and their latents."""
        latent, rope = jnp.split(self.kv_a_proj(x)[:, :, None], [self.kv_lora_rank], axis=-1)
        return rope if self.positions is None else self.positions.rotate(rope, at), self.kv_a_norm(latent)

    def _plain(
        self, nope: Array, turned: Array, latent: Array, rotary: Array, return_weights: bool, **options: Any
    ) -> tuple[Array, Array | None]:
        """Attention to the keys and values of each head, made from the latents."""
        made = self._split_heads(self.kv_b_proj(latent[:, :, 0]), self.nope + self.v_head_dim)
        key, value = jnp.split(made, [self.nope], axis=-1)
        shape = (*key.shape[:3], self.rope)
        of_all = jnp.broadcast_to(rotary, shape, out_sharding=explicit_sharding(key))
        query, key = (jnp.concatenate(parts, axis=-1) for parts in ((nope, turned), (key, of_all)))
        return attend(self, query, key, value, return_weights, **options)

    def _absorbed(
        self, nope: Array, turned: Array, latent: Array, rotary: Array, return_weights: bool, **options: Any
    ) -> tuple[Array, Array | None]:
        """Attention to the latents themselves, in place of the keys and values that are made of them."""
        matrix = self.kv_b_proj.kernel[...].astype(nope.dtype).reshape(self.kv_lora_rank, self.num_heads, -1)
        to_key, to_value = jnp.split(matrix, [self.nope], axis=-1)
        query = jnp.concatenate([jnp.einsum("btnh,cnh->btnc", nope, to_key), turned], axis=-1)
        key = jnp.concatenate([latent, rotary], axis=-1)
        heads, weights = attend(self, query, key, latent, return_weights, **options)
        return jnp.einsum("btnc,cnh->btnh", heads, to_value), weights

    def _split_heads(self, projected: Float[Array, "b t nh"], width: int) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, width)

    def _absorbing_is_less(self, queries: int, keys: int) -> bool:
        """Whether the absorbed form takes fewer products a head."""
        made = self.kv_lora_rank * (
            self.nope + self.v_head_dim
        )  # of a key and a value, or a query and an output
        longer = 2 * self.kv_lora_rank - self.nope - self.v_head_dim  # products of a pair of tokens
        return queries * (made + keys * longer) < keys * made
