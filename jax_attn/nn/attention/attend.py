"""What attentions of every projection do alike, once they have queries, keys and values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.checks import require_known
from jax_attn.functional.dispatch import IMPLEMENTATIONS
from jax_attn.nn.attention.weights import AttentionWeights, keep_scored, sees_weights


def known_implementation(name: str | None) -> Any:
    """Return the name; raise ValueError unless `dot_product_attention` has such an implementation."""
    require_known("implementation", name, (None, *IMPLEMENTATIONS))
    return name


def require_positions(name: str, positions: Array | None, batch: int, tokens: int) -> None:
    """Raise ValueError unless positions are integers `(batch or 1, tokens)`, or None."""
    if positions is None:
        return
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {positions.dtype}")
    if positions.shape not in ((batch, tokens), (1, tokens)):
        raise ValueError(f"{name} must have shape {(batch, tokens)} or {(1, tokens)}, got {positions.shape}")


def attend(
    module: Any,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    return_weights: bool,
    **options: Any,
) -> tuple[Array, Array | None]:
    """Attend with the dropout and the implementation of `module`, and keep the weights for who captures them.

    Args:
        module: has `dropout` and `implementation`.
        return_weights: whether the weights are needed.
        options: of `dot_product_attention`.

    Returns:
        the heads' outputs `(B, T, N, Hv)`, and their weights `(B, N, T, S)` if needed.
    """
    captured = sees_weights(module)
    output, weights = compute(module, query, key, value, return_weights or captured, **options)
    if captured:
        module.sow(AttentionWeights, "weights", weights)
    return output, weights if return_weights else None


def compute(
    module: Any, query: Array, key: Array, value: Array, return_weights: bool, **options: Any
) -> tuple[Array, Array | None]:
    """As `attend`, without keeping the weights."""
    keep_scored(module, query, key, options.get("scale"))
    dropout = module.dropout
    rate = 0.0 if dropout.deterministic else dropout.rate
    result: Any = dot_product_attention(
        query,
        key.astype(query.dtype),
        value.astype(query.dtype),
        dropout_rate=rate,
        dropout_key=dropout.rngs() if rate > 0 else None,
        implementation=module.implementation,
        return_weights=return_weights,
        **options,
    )
    return result if return_weights else (result, None)


def call_unbatched(
    module: Callable[..., Any], x: Float[Array, "t d"], cache: Any, shared: dict[str, Any], **given: Any
) -> Any:
    """Call an attention on a sequence without a batch axis, as a batch of one.

    Args:
        module: takes `(b, t, d)`.
        x: the sequence.
        cache: has to be None: a cache has a batch axis.
        shared: arguments that have no batch axis in a batch either.
        given: arguments that have one, or are None.

    Raises:
        ValueError: there is a cache.
    """
    if cache is not None:
        raise ValueError(f"x must have a batch axis where there is a cache, got shape {x.shape}")
    batched = {name: None if part is None else part[None] for name, part in given.items()}
    return jax.tree.map(lambda part: part[0], module(x[None], **batched, **shared))
