"""torch's gradient clipping as optax transformations, for the head of a chain.

optax.chain(clip_grad_norm(1.0), adamw(1e-3))
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_attn.training.torch_like.transformation import Number, each_leaf


def global_norm(tree: Any, norm_type: float = 2.0) -> jax.Array:
    """The `norm_type`-norm of all leaves together, as one long vector: what `clip_grad_norm_` returns.

    `inf` is the largest absolute value. 16-bit leaves are summed in float32. No leaves: 0.
    """
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves if leaf.size]
    if not wide:
        return jnp.zeros([])
    return jnp.linalg.norm(jnp.stack([jnp.linalg.norm(leaf, norm_type) for leaf in wide]), norm_type)


def clip_grad_norm(max_norm: Number, norm_type: float = 2.0) -> optax.GradientTransformation:
    """`g ← g · min(1, max_norm / (norm + 1e-6))`, with the norm of all gradients together.

    `optax.clip_by_global_norm` divides by the norm alone: at a norm of 1e-3 its result is 0.1% larger. A norm
    that is not finite makes the gradients NaN or 0, as in torch without `error_if_nonfinite`, which has no
    counterpart: a compiled step cannot raise. `optax.apply_if_finite` skips such steps.

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
