"""What every optimizer here is assembled from."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Number = int | float | jax.Array
Schedule = Callable[[Any], Any]
Hyperparameter = Number | Schedule


def assemble(
    direction: optax.GradientTransformation,
    lr: Hyperparameter,
    weight_decay: Hyperparameter,
    *,
    decoupled: bool,
    maximize: bool,
) -> optax.GradientTransformation:
    """`p ← p - lr · direction(g + weight_decay · p)`, or `p ← p - lr · (direction(g) + weight_decay · p)`.

    The second is the decoupled decay. To maximise, `g` is negated before anything else sees it.
    """
    parts = [direction]
    if not is_zero(weight_decay):  # without decay an update needs no parameters
        parts.insert(len(parts) if decoupled else 0, optax.add_decayed_weights(weight_decay))
    if maximize:
        parts.insert(0, optax.scale(-1.0))
    return optax.chain(*parts, optax.scale_by_learning_rate(lr))


def each_leaf(rule: Callable[..., jax.Array], scalars: tuple[Any, ...], *trees: Any) -> Any:
    """`rule(*scalars, *leaves)` at every leaf, in the dtype of the first tree's leaf.

    16-bit leaves are computed in float32 and rounded once. The scalars take the dtype of the leaf: one in
    float64 would widen float32 leaves.
    """

    def at_leaf(*leaves: Any) -> jax.Array:
        dtype = jnp.promote_types(leaves[0].dtype, jnp.float32)
        return rule(*(jnp.asarray(x, dtype) for x in (*scalars, *leaves))).astype(leaves[0].dtype)

    return jax.tree.map(at_leaf, *trees)


def average(moment: Any, grads: Any, beta: Number) -> Any:
    """`beta · moment + (1 - beta) · g`."""
    return each_leaf(lambda keep, add, m, g: keep * m + add * g, (beta, 1 - beta), moment, grads)


def average_square(moment: Any, grads: Any, beta: Number) -> Any:
    """`beta · moment + (1 - beta) · g²`."""
    return each_leaf(lambda keep, add, v, g: keep * v + add * (g * g), (beta, 1 - beta), moment, grads)


def bias_correction(beta: Number, step: jax.Array) -> jax.Array:
    """`1 - beta**step` for a step that counts from 1.

    torch subtracts, in float64, and so is done here where float64 is at hand: at `beta=0.99999` the
    subtraction loses five digits of the first step, and the same ones. In float32 no more than two would be
    left of it (`optax.tree.bias_correction` does that): through `expm1` it keeps them all.
    """
    if in_float64():
        return 1.0 - beta ** step.astype(float)
    log = math.log(beta) if isinstance(beta, int | float) and beta > 0 else jnp.log(beta)
    return -jnp.expm1(step * log)


def in_float64() -> bool:
    """Whether scalars are computed in float64, as torch does always: under `jax_enable_x64`."""
    return jnp.result_type(float) == jnp.float64


def at(value: Hyperparameter, step: jax.Array) -> Any:
    """A hyper-parameter's value at a step that counts from 0."""
    return value(step) if callable(value) else value


def is_known(value: Hyperparameter) -> bool:
    """Whether a hyper-parameter is a plain number; a schedule or an array may become anything."""
    return isinstance(value, int | float)


def is_zero(value: Hyperparameter) -> bool:
    """Whether a hyper-parameter is known to be 0."""
    return isinstance(value, int | float) and value == 0


def require_hyperparameters(betas: tuple[Hyperparameter, ...] = (), **at_least_zero: Hyperparameter) -> None:
    """A ValueError where torch has one. Schedules and arrays are not known yet, and pass."""
    for name, value in at_least_zero.items():
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {name}={value}")
    for i, beta in enumerate(betas):
        if isinstance(beta, int | float) and not 0 <= beta < 1:
            raise ValueError(f"betas[{i}] must be at least 0 and below 1, got betas={betas}")
