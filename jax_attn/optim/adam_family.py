"""torch's Adam, AdamW, NAdam and RAdam as optax transformations.

Common to all: in step t, from 1, `m ← β₁ · m + (1 - β₁) · g` and `v ← β₂ · v + (1 - β₂) · g²`. What
`optimizers.py` says of its arguments holds here.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_attn.optim.transformation import (
    Hyperparameter,
    Number,
    assemble,
    at,
    average,
    average_square,
    bias_correction,
    each_leaf,
    in_float64,
    require_hyperparameters,
)

Betas = tuple[Hyperparameter, Hyperparameter]


def adam(
    lr: Hyperparameter = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> optax.GradientTransformation:
    """Adam, with coupled decay: `weight_decay · p` is added to the gradient, and so reaches both moments.

    `p ← p - lr · m / (1 - β₁ᵗ) / (sqrt(v) / sqrt(1 - β₂ᵗ) + eps)`; `amsgrad` takes the largest `v` so far.

    `optax.amsgrad` corrects each `v` before it takes the largest: torch does afterwards.

    Raises:
        ValueError: a beta that is not in [0, 1), or another argument below 0.

    Source: `torch.optim.Adam`; Kingma and Ba (arXiv 1412.6980).
    """
    require_hyperparameters(betas, lr=lr, eps=eps, weight_decay=weight_decay)
    direction = _scale_by_adam(betas, eps, amsgrad)
    return assemble(direction, lr, weight_decay, decoupled=decoupled_weight_decay, maximize=maximize)


def adamw(
    lr: Hyperparameter = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Hyperparameter = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with decoupled decay: the parameters shrink by `lr · weight_decay`, and the moments do not see it.

    `optax.adamw` has a default decay of 1e-4, torch of 1e-2.

    Raises:
        ValueError: as `adam`.

    Source: `torch.optim.AdamW`; Loshchilov and Hutter (arXiv 1711.05101).
    """
    return adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


def nadam(
    lr: Hyperparameter = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum_decay: Number = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam that looks ahead as Nesterov's momentum does, by a momentum that grows towards `β₁`.

    `μₜ = β₁ · (1 - 0.96^(t · momentum_decay) / 2)`, `Πₜ = μ₁ ··· μₜ`, and
    `p ← p - lr · ((1 - μₜ) / (1 - Πₜ) · g + μₜ₊₁ / (1 - Πₜ₊₁) · m) / (sqrt(v / (1 - β₂ᵗ)) + eps)`.

    `optax.nadam` keeps the momentum at `β₁`. torch keeps `Πₜ` in its default dtype: with float64 parameters
    its updates are right to 1e-8 only, unless `torch.set_default_dtype(torch.float64)`.

    Raises:
        ValueError: a beta that is not in [0, 1), or another argument below 0.

    Source: `torch.optim.NAdam`; Dozat (ICLR workshop 2016).
    """
    require_hyperparameters(betas, lr=lr, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
    direction = _scale_by_nadam(betas, eps, momentum_decay)
    return assemble(direction, lr, weight_decay, decoupled=decoupled_weight_decay, maximize=maximize)


def radam(
    lr: Hyperparameter = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam that trusts `v` no further than it has seen gradients.

    `ρ∞ = 2 / (1 - β₂) - 1`, `ρₜ = ρ∞ - 2t β₂ᵗ / (1 - β₂ᵗ)`. Up to `ρₜ = 5`, `p ← p - lr · m / (1 - β₁ᵗ)`;
    above, the step is multiplied by `r · sqrt(1 - β₂ᵗ) / (sqrt(v) + eps)`, with
    `r = sqrt((ρₜ - 4) (ρₜ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρₜ))`.

    `optax.radam` adds eps after the correction of `v`, and loses digits of `ρₜ` in float32.

    Raises:
        ValueError: a beta that is not in [0, 1), or another argument below 0.

    Source: `torch.optim.RAdam`; Liu et al. (arXiv 1908.03265).
    """
    require_hyperparameters(betas, lr=lr, eps=eps, weight_decay=weight_decay)
    direction = _scale_by_radam(betas, eps)
    return assemble(direction, lr, weight_decay, decoupled=decoupled_weight_decay, maximize=maximize)


class AdamState(NamedTuple):
    """Steps taken, `m`, `v`, and with amsgrad the largest `v`."""

    step: jax.Array
    exp_avg: Any
    exp_avg_sq: Any
    max_exp_avg_sq: Any = None


def _scale_by_adam(betas: Betas, eps: Number, amsgrad: bool) -> optax.GradientTransformation:
    def init(params: Any) -> AdamState:
        zeros = optax.tree.zeros_like(params)
        return AdamState(jnp.zeros([], jnp.int32), zeros, zeros, zeros if amsgrad else None)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        beta1, beta2, step, exp_avg, exp_avg_sq = _moments(updates, state, betas)
        largest = jax.tree.map(jnp.maximum, state.max_exp_avg_sq, exp_avg_sq) if amsgrad else None
        scaled = each_leaf(
            lambda first, root, eps, m, v: m / first / (jnp.sqrt(v) / root + eps),
            (bias_correction(beta1, step), jnp.sqrt(bias_correction(beta2, step)), eps),
            exp_avg,
            largest if amsgrad else exp_avg_sq,
        )
        return scaled, AdamState(step, exp_avg, exp_avg_sq, largest)

    return optax.GradientTransformation(init, update)


class NAdamState(NamedTuple):
    """Steps taken, `m`, `v` and `Π`."""

    step: jax.Array
    exp_avg: Any
    exp_avg_sq: Any
    mu_product: jax.Array


def _scale_by_nadam(betas: Betas, eps: Number, momentum_decay: Number) -> optax.GradientTransformation:
    def init(params: Any) -> NAdamState:
        zeros = optax.tree.zeros_like(params)
        return NAdamState(jnp.zeros([], jnp.int32), zeros, zeros, jnp.ones([], float))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, NAdamState]:
        beta1, beta2, step, exp_avg, exp_avg_sq = _moments(updates, state, betas)
        mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (step, step + 1))
        product = (state.mu_product * mu).astype(state.mu_product.dtype)
        scaled = each_leaf(
            lambda now, ahead, correction, eps, m, v, g: (
                (now * g + ahead * m) / (jnp.sqrt(v / correction) + eps)
            ),
            ((1 - mu) / (1 - product), mu_next / (1 - product * mu_next), bias_correction(beta2, step), eps),
            exp_avg,
            exp_avg_sq,
            updates,
        )
        return scaled, NAdamState(step, exp_avg, exp_avg_sq, product)

    return optax.GradientTransformation(init, update)


def _scale_by_radam(betas: Betas, eps: Number) -> optax.GradientTransformation:
    def init(params: Any) -> AdamState:
        zeros = optax.tree.zeros_like(params)
        return AdamState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        beta1, beta2, step, exp_avg, exp_avg_sq = _moments(updates, state, betas)
        correction = bias_correction(beta2, step)
        limit = 2 / (1 - beta2) - 1
        length = _length(beta2, step)
        adapts = length > 5.0
        known = jnp.maximum(length, 5.0)  # below 4 the root would be of a negative number
        rectifier = jnp.sqrt((known - 4) * (known - 2) * limit / ((limit - 4) * (limit - 2) * known))
        scaled = each_leaf(
            lambda first, trust, eps, m, v: m / first * jnp.where(adapts, trust / (jnp.sqrt(v) + eps), 1.0),
            (bias_correction(beta1, step), rectifier * jnp.sqrt(correction), eps),
            exp_avg,
            exp_avg_sq,
        )
        return scaled, AdamState(step, exp_avg, exp_avg_sq)

    return optax.GradientTransformation(init, update)


def _length(beta: Number, step: jax.Array) -> jax.Array:
    """`ρₜ = 2 / (1 - β) - 1 - 2t βᵗ / (1 - βᵗ)`, how many gradients `v` stands for.

    In the first steps both terms are near `2 / (1 - β)`, and their difference loses the square of that. In
    float64 it is taken as torch takes it, operation by operation, and so loses the same digits. In float32
    none would be left. With `λ = -ln β` it is `coth(λ/2) - 2t / (exp(λt) - 1)`; the series of the two begin
    with what is left of them.
    """
    if in_float64():
        power = beta ** step.astype(float)
        return 2 / (1 - beta) - 1 - 2 * step * power / (1 - power)
    rate = -math.log(beta) if isinstance(beta, int | float) and beta > 0 else -jnp.log(beta)
    x = rate * step

    def rest(t: Any, x: Any) -> Any:  # t - 2t / (exp(x) - 1) + 2t / x, to 1e-14 below x = 0.1
        return t * x * (1 / 6 - x * x * (1 / 360 - x * x * (1 / 15120 - x * x / 604800)))

    whole = 2 / (1 - beta) - 1 - 2 * step / jnp.expm1(x)
    return jnp.where(x < 0.1, step + rest(1, rate) - rest(step, x), whole)


def _moments(grads: Any, state: Any, betas: Betas) -> tuple[Any, Any, jax.Array, Any, Any]:
    """Both betas in this step, its number from 1, and the new `m` and `v`."""
    beta1, beta2 = (at(beta, state.step) for beta in betas)
    exp_avg = average(state.exp_avg, grads, beta1)
    exp_avg_sq = average_square(state.exp_avg_sq, grads, beta2)
    return beta1, beta2, state.step + 1, exp_avg, exp_avg_sq
