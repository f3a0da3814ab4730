"""Ready-made score mods: `score_mod(score, b, h, q_idx, kv_idx) -> score`, on scaled scores.

Arrays that a mod captures (slopes, tables) may be traced and get their gradients.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_attn.functional.buckets import t5_bucket
from jax_attn.functional.checks import require_cap

ScoreMod = Callable[[Array, Array, Array, Array, Array], Array]


def alibi_slopes(num_heads: int) -> Float[np.ndarray, "N"]:
    """`2^(-8 i / n)` for head `i = 1..n` where `n` is a power of two.

    For another number of heads: the slopes of the largest power of two below it, then every other slope of
    the next one.

    Source: ALiBi (arXiv 2108.12409), section 3 and its published code.
    """
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, n + 1) / n)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * (num_heads - n) + 1, 2) / n)
    return np.concatenate([slopes, between])


def alibi(slopes: Float[Array, "N"]) -> ScoreMod:
    """`score - slopes[h] |q_idx - kv_idx|`: the farther, the less.

    Args:
        slopes: one for each head, for example `alibi_slopes(num_heads)`.

    Source: ALiBi (arXiv 2108.12409), section 3.
    """
    slopes = jnp.asarray(slopes)

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score - slopes[h].astype(score.dtype) * abs(q_idx - kv_idx).astype(score.dtype)

    return score_mod


def softcap(cap: float) -> ScoreMod:
    """`cap · tanh(score / cap)`: scores stay within ±cap.

    Raises:
        ValueError: a cap that is not above 0.

    Source: Gemma 2 (arXiv 2408.00118), section 2.
    """
    require_cap("cap", cap)

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return cap * jnp.tanh(score / cap)

    return score_mod


def learned_bias(table: Float[Array, "*BN T S"]) -> ScoreMod:
    """`score + table[..., q_idx, kv_idx]`: a bias for each pair of positions.

    Args:
        table: `(T, S)`, `(N, T, S)` or `(B, N, T, S)`.
    """

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score + table[(*(b, h)[4 - table.ndim :], q_idx, kv_idx)].astype(score.dtype)

    return score_mod


def relative_bias(table: Float[Array, "N R"]) -> ScoreMod:
    """`score + table[h, clip(kv_idx - q_idx, -r, r) + r]`: a bias for each head and distance.

    Args:
        table: `R = 2 r + 1` distances, from -r to r; farther ones share the last.
    """
    reach = table.shape[-1] // 2

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score + table[h, jnp.clip(kv_idx - q_idx, -reach, reach) + reach]

    return score_mod


def t5_bias(
    table: Float[Array, "num_buckets N"], bidirectional: bool = True, max_distance: int = 128
) -> ScoreMod:
    """`score + table[bucket(kv_idx - q_idx), h]`, with T5's buckets.

    Source: T5 (arXiv 1910.10683), section 2.1.
    """

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score + table[t5_bucket(kv_idx - q_idx, bidirectional, table.shape[0], max_distance), h]

    return score_mod


def shaw(query: Float[Array, "B T N H"], table: Float[Array, "R H"], scale: float | None = None) -> ScoreMod:
    """`score + scale · query · table[clip(kv_idx - q_idx, -r, r) + r]`: a learned key for each distance.

    Args:
        query: the queries that attention is called with; their products with the table are taken once.
        table: `R = 2 r + 1` vectors, from distance -r to r.
        scale: the scale of the scores; None is `H^-1/2`.

    Source: Shaw et al. (arXiv 1803.02155), equation 4.
    """
    reach = table.shape[0] // 2
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    products = jnp.einsum("btnh,rh->bntr", query, table) * scale

    def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score + products[b, h, q_idx, jnp.clip(kv_idx - q_idx, -reach, reach) + reach]

    return score_mod
