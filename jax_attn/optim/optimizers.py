"""torch's SGD, RMSprop and Adagrad as optax transformations; Adam and its kin are in `adam_family.py`.

    optimizer = nnx.Optimizer(model, optax.chain(clip_grad_norm(1.0), sgd(0.1, momentum=0.9)), wrt=nnx.Param)

Names, order and defaults of the arguments are torch's. `lr` is a number or a schedule `step -> lr` that
counts from 0, and so may be `momentum` and the betas (`OneCycleLR` moves them). To set hyper-parameters by
hand between steps, without compiling anew: `optax.inject_hyperparams(sgd)(lr=0.1)`.

What torch does with `param_groups` is `optax.partition` here, one transformation a label; frozen
parameters are `optax.masked` or a filter in `nnx.Optimizer(wrt=...)`. Parameters are real, and keep their
dtype, as do their moments. `foreach`, `fused`, `capturable` and `differentiable` choose among torch's
implementations of one formula, and have no counterpart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_attn.optim.transformation import (
    Hyperparameter,
    Number,
    assemble,
    at,
    each_leaf,
    is_known,
    is_zero,
    require_hyperparameters,
)


def sgd(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.0,
    dampening: Number = 0.0,
    weight_decay: Hyperparameter = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Gradient descent, with momentum or Nesterov's.

    `g ← g + weight_decay · p`; `b ← momentum · b + (1 - dampening) · g`, but `b ← g` in the first step;
    `p ← p - lr · b`, or with Nesterov `p ← p - lr · (g + momentum · b)`.

    `optax.sgd` has no dampening; without it the two agree.

    Raises:
        ValueError: an argument below 0, or `nesterov` without momentum or with dampening.

    Source: `torch.optim.SGD`.
    """
    require_hyperparameters(lr=lr, momentum=momentum, weight_decay=weight_decay)
    if nesterov and (is_zero(momentum) or (is_known(dampening) and not is_zero(dampening))):
        raise ValueError(
            "nesterov needs a momentum above 0 and a dampening of 0, "
            f"got momentum={momentum} and dampening={dampening}"
        )
    # Without momentum torch keeps no buffer, and does not look at dampening.
    direction = optax.identity() if is_zero(momentum) else _momentum(momentum, dampening, nesterov)
    return assemble(direction, lr, weight_decay, decoupled=False, maximize=maximize)


class MomentumState(NamedTuple):
    """Steps taken, and `b`."""

    step: jax.Array
    momentum_buffer: Any


def _momentum(
    momentum: Hyperparameter, dampening: Number = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    def init(params: Any) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MomentumState]:
        keep = at(momentum, state.step)
        # torch's first buffer is the gradient itself, undampened. (`optax.trace` has no dampening.)
        add = jnp.where(state.step == 0, 1.0, 1.0 - dampening)
        buffer = each_leaf(
            lambda keep, add, b, g: keep * b + add * g, (keep, add), state.momentum_buffer, updates
        )
        ahead = each_leaf(lambda keep, b, g: g + keep * b, (keep,), buffer, updates) if nesterov else buffer
        return ahead, MomentumState(state.step + 1, buffer)

    return optax.GradientTransformation(init, update)


def rmsprop(
    lr: Hyperparameter = 1e-2,
    alpha: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum: Hyperparameter = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Gradients over the root of their squares' running mean.

    `g ← g + weight_decay · p`; `v ← alpha · v + (1 - alpha) · g²`; `u = g / (sqrt(v) + eps)`;
    `p ← p - lr · u`, or with momentum `b ← momentum · b + u` and `p ← p - lr · b`. `centered` takes
    `v - m²` in place of `v`, with `m ← alpha · m + (1 - alpha) · g`.

    `optax.rmsprop` differs in its defaults: decay 0.9, and eps inside the root. Centred, the root of a
    gradient that hardly changes is one of a rounding error, in torch too: NaN where that is negative.

    Raises:
        ValueError: an argument below 0.

    Source: `torch.optim.RMSprop`.
    """
    require_hyperparameters(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    direction = scale(decay=alpha, eps=eps, eps_in_sqrt=False)
    if not is_zero(momentum):
        direction = optax.chain(direction, _momentum(momentum))
    return assemble(direction, lr, weight_decay, decoupled=False, maximize=maximize)


def adagrad(
    lr: Hyperparameter = 1e-2,
    lr_decay: Number = 0.0,
    weight_decay: Hyperparameter = 0.0,
    initial_accumulator_value: Number = 0.0,
    eps: Number = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Gradients over the root of all their squares so far.

    `g ← g + weight_decay · p`; `s ← s + g²`, from `s = initial_accumulator_value`; in step t, from 1,
    `p ← p - lr / (1 + (t - 1) · lr_decay) · g / (sqrt(s) + eps)`.

    `optax.adagrad` starts at 0.1, has its eps of 1e-7 inside the root, and no `lr_decay`.

    Raises:
        ValueError: an argument below 0.

    Source: `torch.optim.Adagrad`.
    """
    require_hyperparameters(
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
    )
    direction = _scale_by_sum_of_squares(lr_decay, initial_accumulator_value, eps)
    return assemble(direction, lr, weight_decay, decoupled=False, maximize=maximize)


class AdagradState(NamedTuple):
    """Steps taken, and `s`."""

    step: jax.Array
    sum: Any


def _scale_by_sum_of_squares(
    lr_decay: Number, initial_accumulator_value: Number, eps: Number
) -> optax.GradientTransformation:
    def init(params: Any) -> AdagradState:
        start = optax.tree.full_like(params, initial_accumulator_value)
        return AdagradState(jnp.zeros([], jnp.int32), start)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdagradState]:
        total = each_leaf(lambda s, g: s + g * g, (), state.sum, updates)
        decay = 1.0 / (1.0 + state.step * lr_decay)
        scaled = each_leaf(
            lambda decay, eps, s, g: decay * g / (jnp.sqrt(s) + eps), (decay, eps), total, updates
        )
        return scaled, AdagradState(state.step + 1, total)

    return optax.GradientTransformation(init, update)
