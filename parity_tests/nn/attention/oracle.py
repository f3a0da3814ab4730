"""Multi-head attention with every option, written in NumPy from its formulas, one head and one query at a time."""

import numpy as np

Array = np.ndarray


def multi_head_attention(
    weights: dict[str, Array],
    x: Array,
    *,
    heads: int,
    kv_heads: int,
    seen: Array,
    positions: str | None = None,
    qk_norm: str | None = None,
    eps: float = 1e-6,
    softcap: float | None = None,
    sinks: str | None = None,
    keep: Array | None = None,
    rate: float = 0.0,
) -> Array:
    """Self-attention of `x` `(B, T, D)`.

    Args:
        weights: by name, as in `MultiHeadAttention`: `q_proj.kernel`, `q_norm.scale`, `sinks`, ...
        seen: `(B, N, T, T)`, which query sees which key.
        positions: "rotary", "interleaved", "alibi", "t5" or "shaw".
        keep: `(B, N, T, T)`, which weights dropout keeps.
    """
    q, k, v = (project(weights, f"{name}_proj", x) for name in "qkv")
    width = q.shape[-1] // heads
    outputs = np.zeros_like(q)
    for b, t, n in np.ndindex(x.shape[0], x.shape[1], heads):
        shared = n // (heads // kv_heads)
        mine, theirs = slice(n * width, (n + 1) * width), slice(shared * width, (shared + 1) * width)
        query, keys, values = q[b, t, mine], k[b, :, theirs], v[b, :, theirs]
        query, keys = (
            normalised(weights, "q_norm", query, qk_norm, eps),
            normalised(weights, "k_norm", keys, qk_norm, eps),
        )
        if positions in ("rotary", "interleaved"):
            query = turned(query, t, positions)
            keys = np.stack([turned(key, s, positions) for s, key in enumerate(keys)])
        scores = keys @ query / np.sqrt(width)
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        distance = np.arange(len(keys)) - t
        if positions == "alibi":
            scores = scores - slope(n, heads) * abs(distance)
        if positions == "t5":
            scores = scores + weights["positions.table.embedding"][bucket(distance), n]
        if positions == "shaw":
            scores = scores + weights["positions.key_table.embedding"][clipped(distance)] @ query / np.sqrt(
                width
            )
        allowed = seen[b, n, t]
        sink = {None: -np.inf, "off_by_one": 0.0, "learned": weights.get("sinks", [0.0] * heads)[n]}[sinks]
        highest = max([sink, *scores[allowed], -1e300])
        powers = np.where(allowed, np.exp(np.where(allowed, scores, highest) - highest), 0.0)
        total = powers.sum() + np.exp(sink - highest)
        attention = powers / total if total > 0 else powers
        if keep is not None:
            attention = np.where(keep[b, n, t], attention / (1 - rate), 0.0)
        outputs[b, t, mine] = attention @ values
        if positions == "shaw":
            outputs[b, t, mine] += attention @ weights["positions.value_table.embedding"][clipped(distance)]
    return project(weights, "out_proj", outputs)


def project(weights: dict[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.kernel"] + weights[f"{name}.bias"]


def normalised(weights: dict[str, Array], name: str, x: Array, kind: str | None, eps: float) -> Array:
    if kind is None:
        return x
    x = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weights[f"{name}.scale"]
    return x + weights[f"{name}.bias"] if kind == "layer" else x


def turned(x: Array, position: int, kind: str) -> Array:
    """Each pair of features as a complex number, times `exp(i position 10000^(-2i/h))`."""
    half = len(x) // 2
    real, imaginary = (x[0::2], x[1::2]) if kind == "interleaved" else (x[:half], x[half:])
    complex_x = (real + 1j * imaginary) * np.exp(1j * position * 10000.0 ** (-np.arange(half) / half))
    pairs = (complex_x.real, complex_x.imag)
    return np.stack(pairs, -1).ravel() if kind == "interleaved" else np.concatenate(pairs)


def slope(head: int, heads: int) -> float:
    """Six heads: those of four, and the first and third of eight."""
    assert heads == 6
    return [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3][head]


def bucket(distance: Array) -> Array:
    """T5's for one direction, eight buckets up to a distance of 16: 4 exact ones, then four that grow."""
    back = np.maximum(-distance, 0)
    return np.select([back < 4, back < 6, back < 8, back < 12], [back, 4, 5, 6], 7)


def clipped(distance: Array) -> Array:
    return np.clip(distance, -2, 2) + 2
