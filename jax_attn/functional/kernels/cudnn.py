"""cuDNN's attention, through `jax.nn`, and the reasons why a call cannot go there.

Not run yet: it needs an NVIDIA GPU even to be traced. What surrounds it (the reasons, and zeros for rows that
may attend to nothing) is tested with `jax.nn`'s plain implementation in its place.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

MAX_HEAD_DIM = 128  # 256 from Hopper on, which cannot be told before there is a device
_SERVED = (
    "scale",
    "return_residual",
    "dropout_key",  # says nothing without a rate
    "bias",
    "mask",
    "is_causal",
    "query_seq_lengths",
    "key_value_seq_lengths",
    "local_window_size",
)


def why_not_cudnn(query: Any, key: Any, value: Any, **options: Any) -> str | None:
    """Why cuDNN cannot serve a call, or None if it can.

    Args:
        query, key, value: `(B, T, N, H)`, `(B, S, K, H)`, `(B, S, K, Hv)`, or their shapes and dtypes.
        options: the other arguments of `dot_product_attention` or `flex_attention`; those that are None or
            False (or a dropout rate of 0) are not asked for.
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 and float16, not {query.dtype}"
    (queries, head_dim), (keys, value_dim) = query.shape[1::2], value.shape[1::2]
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"the head dim must be a multiple of 8 and at most {MAX_HEAD_DIM}, got {head_dim}"
    if value_dim != head_dim:
        return f"values must have the head dim of the keys, {head_dim}, got {value_dim}"
    for name, x in options.items():
        if (
            name not in _SERVED
            and x is not None
            and x is not False
            and not (name == "dropout_rate" and x == 0)
        ):
            return f"it knows no {name}"
    window, causal = options.get("local_window_size"), options.get("is_causal")
    if window is not None and window[1] != 0 and not causal:
        return f"a window must not look ahead unless is_causal cuts it, got local_window_size={window}"
    bias, mask = options.get("bias"), options.get("mask")
    for name, x in {"bias": bias, "mask": mask}.items():
        if x is not None and tuple(x.shape[-2:]) != (queries, keys):
            return f"{name} must have T and S whole, {(queries, keys)}, got {tuple(x.shape)}"
        if x is not None and (queries % 2 or keys % 2):
            return f"with a {name}, T and S must be even, got {queries} and {keys}"
    return None


def cudnn_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "B"] | None = None,
    key_value_seq_lengths: Int[Array, "B"] | None = None,
    local_window_size: tuple[int, int] | None = None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Output and log-sum-exp of `jax.nn.dot_product_attention` by cuDNN.

    Queries that may attend to nothing give 0 and -inf. The log-sum-exp comes in the precision of the operands
    and cannot be differentiated: asking for that raises, where `jax.nn` would give 0.

    A boolean mask becomes a bias of the whole `(B, N, T, S)` there: it works, slowly.

    Args:
        implementation: "xla" is for tests where there is no GPU.

    Raises:
        ValueError: see `why_not_cudnn`; or the gradient of the log-sum-exp is asked for.
    """
    query_lengths, key_lengths = (
        None if x is None else x.astype(jnp.int32) for x in (query_seq_lengths, key_value_seq_lengths)
    )
    options: dict[str, Any] = {
        "bias": bias,
        "mask": mask,
        "is_causal": is_causal,
        "query_seq_lengths": query_lengths,
        "key_value_seq_lengths": key_lengths,
        "local_window_size": local_window_size,
    }
    if implementation == "cudnn":
        reason = why_not_cudnn(query, key, value, **options)
        if reason is not None:
            raise ValueError(f"implementation='cudnn' cannot serve this call: {reason}")
    output, lse = jax.nn.dot_product_attention(
        query, key, value, scale=scale, implementation=implementation, return_residual=True, **options
    )
    lse = _without_gradient(lse.astype(jnp.float32), (query, key, value))
    sees = _sees_something(
        query.shape[1],
        key.shape[1],
        mask=mask,
        is_causal=is_causal,
        query_seq_lengths=query_lengths,
        key_value_seq_lengths=key_lengths,
        local_window_size=local_window_size,
    )
    if sees is None:
        return output, lse
    return jnp.where(sees[..., None], output, 0), jnp.where(sees, lse, -jnp.inf)


@jax.custom_vjp
def _without_gradient(lse: Array, operands: tuple[Array, ...]) -> Array:
    """`lse` as it is; to ask how it depends on the operands raises."""
    return lse


def _forward(lse: Any, operands: tuple[Any, ...]) -> tuple[Array, tuple[Array, ...]]:
    return lse.value, tuple(x.value for x in (lse, *operands))


def _backward(given: tuple[Array, ...], cotangent: Any) -> tuple[Any, ...]:
    if not isinstance(cotangent, SymbolicZero):
        raise ValueError(
            "implementation='cudnn' has no gradient of the log-sum-exp; 'pallas' and 'blockwise' have"
        )
    lse, *operands = (jnp.zeros_like(x) for x in given)
    return lse, tuple(operands)


_without_gradient.defvjp(_forward, _backward, symbolic_zeros=True)


def _sees_something(
    queries: int,
    keys: int,
    *,
    mask: Array | None,
    is_causal: bool,
    query_seq_lengths: Array | None,
    key_value_seq_lengths: Array | None,
    local_window_size: tuple[int, int] | None,
) -> Bool[Array, "B T N"] | None:
    """Which queries may attend to any key, or None where all of them do."""
    none_hidden = mask is None and query_seq_lengths is None and key_value_seq_lengths is None
    if none_hidden and (local_window_size is None or queries <= keys + local_window_size[0]):
        return None
    q_idx = jnp.arange(queries)
    ends = keys if key_value_seq_lengths is None else key_value_seq_lengths[:, None]
    first, last = jnp.zeros_like(q_idx), jnp.full_like(q_idx, keys - 1)
    if is_causal:
        last = jnp.minimum(last, q_idx)
    if local_window_size is not None:
        first = jnp.maximum(first, q_idx - local_window_size[0])
        last = jnp.minimum(last, q_idx + local_window_size[1])
    if mask is not None:
        # The mask and the rest must allow the same key.
        kv_idx = jnp.arange(keys)
        inside = (kv_idx >= first[:, None]) & (kv_idx <= last[:, None])
        inside = inside & (kv_idx < jnp.reshape(jnp.asarray(ends), (-1, 1, 1)))
        sees = jnp.any(mask & inside[:, None], axis=-1).swapaxes(1, 2)
    else:
        sees = (first <= jnp.minimum(last, ends - 1)).reshape(-1, queries, 1)
    if query_seq_lengths is not None:
        sees = sees & (q_idx < query_seq_lengths[:, None])[..., None]
    return sees
