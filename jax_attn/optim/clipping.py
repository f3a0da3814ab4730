"""torch's gradient clipping as optax transformations, for the head of a chain.

optax.chain(clip_grad_norm(1.0), adamw(1e-3))
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_attn.optim.transformation import Number, each_leaf


def global_norm(tree: Any, norm_type: Number | str = 2.0) -> jax.Array:
    """The `norm_type`-norm of all leaves together, as one long vector: what `clip_grad_norm_` returns.

    `inf`, or "inf", is the largest absolute value. 16-bit leaves are summed in float32. No leaves: 0.

    Raises:
        ValueError: a `norm_type` that is not above 0 (torch also counts with 0, and takes -inf).
    """
    known = not isinstance(norm_type, jax.Array)  # else it is injected, and may be traced
    norm_type = float(norm_type) if known else norm_type
    if known and not norm_type > 0:
        raise ValueError(f"norm_type must be above 0, got norm_type={norm_type}")
    # Leaves are reduced as they are: laid out as vectors first, sharded ones would be gathered.
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree) if x.size]
    if not wide:
        return jnp.zeros([])
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in wide]))
    if known and norm_type == math.inf:
        return largest
    powers = sum(jnp.sum(jnp.abs(x) ** norm_type) for x in wide)
    if known:
        return jnp.sqrt(powers) if norm_type == 2 else powers ** (1.0 / norm_type)
    return jnp.where(jnp.isinf(norm_type), largest, powers ** (1.0 / norm_type))


def clip_grad_norm(max_norm: Number, norm_type: Number | str = 2.0) -> optax.GradientTransformation:
    """`g ← g · min(1, max_norm / (norm + 1e-6))`, with the norm of all gradients together.

    `optax.clip_by_global_norm` divides by the norm alone: at a norm of 1e-3 its result is 0.1% larger. A norm
    that is not finite makes the gradients NaN or 0, as in torch without `error_if_nonfinite`, which has no
    counterpart: a compiled step cannot raise. `optax.apply_if_finite` skips such steps.

    Raises:
        ValueError: a `norm_type` that is not above 0.

    Source: `torch.nn.utils.clip_grad_norm_`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.minimum(max_norm / (global_norm(updates, norm_type) + 1e-6), 1.0)
        return each_leaf(lambda factor, g: factor * g, (factor,), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_grad_value(clip_value: Number) -> optax.GradientTransformation:
    """Every element of every gradient into `[-clip_value, clip_value]`.

    Source: `torch.nn.utils.clip_grad_value_`.
    """
    return optax.clip(clip_value)
