"""torch's learning rate schedulers as functions `step -> lr`, with the initial rate as first argument.

Give one to an optimizer of this package (`adamw(cosine_annealing_lr(1e-3, T_max=100))`) or to any of
optax's. Steps count from 0: `schedule(k)` is the rate of the update k, where torch calls `scheduler.step()`
after every `optimizer.step()`. torch carries most rates from step to step; these are the same values in
closed form, at every step, also past the end. They are in JAX's default float dtype: float64 under
`jax_enable_x64`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jax_attn.functional.checks import require_positive
from jax_attn.optim.transformation import Number, Schedule


def lambda_lr(lr: Number, lr_lambda: Schedule) -> Schedule:
    """`lr · lr_lambda(step)`.

    `lr_lambda` meets a traced step once compiled: `jnp.where(step < 10, a, b)`, not `a if step < 10 else b`.

    Source: `torch.optim.lr_scheduler.LambdaLR`.
    """

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, int)  # an int32 over a number is float32, also under jax_enable_x64
        return lr * jnp.asarray(lr_lambda(step), float)

    return schedule


def linear_warmup(lr: Number, num_warmup_steps: int, num_training_steps: int | None = None) -> Schedule:
    """From 0 up to `lr` in a straight line over the warm-up, then down to 0 at `num_training_steps`.

    With a warm-up the first update has a rate of 0; past the end all have. Without `num_training_steps` the
    rate stays at `lr`.

    Source: transformers' `get_linear_schedule_with_warmup` and `get_constant_schedule_with_warmup`, both a
    `LambdaLR`.
    """

    def factor(step: Any) -> jax.Array:
        climbing = step / max(1, num_warmup_steps)
        if num_training_steps is None:
            return jnp.where(step < num_warmup_steps, climbing, 1.0)
        left = jnp.maximum(0.0, num_training_steps - step)
        falling = left / max(1, num_training_steps - num_warmup_steps)
        return jnp.where(step < num_warmup_steps, climbing, falling)

    return lambda_lr(lr, factor)


def noam_lr(embed_dim: int, num_warmup_steps: int = 4000, factor: Number = 1.0) -> Schedule:
    """The rate of the 2017 Transformer: up in a straight line, then down with the root of the step.

    `factor · embed_dim^-1/2 · min(k^-1/2, k · num_warmup_steps^-3/2)` in the update `k`, which the paper counts
    from 1: the first update, step 0 here, has `k = 1`.

    Raises:
        ValueError: a size that is not positive.

    Source: Vaswani et al. (arXiv 1706.03762), equation 3; named after Noam Shazeer.
    """
    require_positive("embed_dim", embed_dim)
    require_positive("num_warmup_steps", num_warmup_steps)

    def rate(step: Any) -> jax.Array:
        k = jnp.asarray(step + 1, float)
        return embed_dim**-0.5 * jnp.minimum(k**-0.5, k * num_warmup_steps**-1.5)

    return lambda_lr(factor, rate)


def constant_lr(lr: Number, factor: float = 1.0 / 3.0, total_iters: int = 5) -> Schedule:
    """`lr · factor` for `total_iters` steps, then `lr`.

    With `total_iters=0` it stays at `lr · factor` for ever, as in torch. torch fails to leave a `factor` of 0
    (it divides by it); this leaves it.

    Raises:
        ValueError: a factor that is not in [0, 1].

    Source: `torch.optim.lr_scheduler.ConstantLR`.
    """
    _require_between("factor", factor, 0.0, 1.0)
    last = total_iters if total_iters else math.inf
    return lambda_lr(lr, lambda step: jnp.where(step < last, factor, 1.0))


def linear_lr(
    lr: Number, start_factor: float = 1.0 / 3.0, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """From `lr · start_factor` to `lr · end_factor` in a straight line over `total_iters` steps, then level.

    Raises:
        ValueError: a `start_factor` that is not in (0, 1], or an `end_factor` that is not in [0, 1].

    Source: `torch.optim.lr_scheduler.LinearLR`.
    """
    _require_between("start_factor", start_factor, 0.0, 1.0, open_below=True)
    _require_between("end_factor", end_factor, 0.0, 1.0)

    def factor(step: Any) -> jax.Array:
        share = jnp.minimum(step, total_iters) / max(1, total_iters)
        return start_factor + (end_factor - start_factor) * share

    return lambda_lr(lr, factor)


def step_lr(lr: Number, step_size: int, gamma: float = 0.1) -> Schedule:
    """`lr · gamma^floor(step / step_size)`.

    Source: `torch.optim.lr_scheduler.StepLR`.
    """
    require_positive("step_size", step_size)
    return lambda_lr(lr, lambda step: (1.0 * gamma) ** (step // step_size))  # an integer would overflow


def exponential_lr(lr: Number, gamma: float) -> Schedule:
    """`lr · gamma^step`.

    Source: `torch.optim.lr_scheduler.ExponentialLR`.
    """
    return lambda_lr(lr, lambda step: (1.0 * gamma) ** step)  # an integer would overflow


def cosine_annealing_lr(lr: Number, T_max: int, eta_min: float = 0.0) -> Schedule:
    """`eta_min + (lr - eta_min) · (1 + cos(π · step / T_max)) / 2`.

    After `T_max` it climbs again, back to `lr` at `2 · T_max`; `optax.cosine_decay_schedule` stays down.

    Source: `torch.optim.lr_scheduler.CosineAnnealingLR`.
    """
    require_positive("T_max", T_max)
    return lambda step: eta_min + (lr - eta_min) * (1.0 + jnp.cos(math.pi * step / T_max)) / 2.0


def one_cycle_lr(
    max_lr: Number,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    *,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Up from `max_lr / div_factor` to `max_lr`, then down to `max_lr / div_factor / final_div_factor`.

    It is at `max_lr` in step `pct_start · total_steps - 1` and at its end in `total_steps - 1`. With
    `three_phase` it comes down as fast as it went up, to where it began, and then to the end. The step
    `total_steps` is one too many, but torch has a value there, that of the curve run on, and so has this;
    past it torch raises, and this is at its end. torch moves the momentum along, unless
    `cycle_momentum=False`: that is `one_cycle_momentum`.

    Raises:
        ValueError: neither `total_steps` nor `epochs` and `steps_per_epoch`, one of them no integer from 1
            on, a `pct_start` that is not in [0, 1] or leaves a phase of no length (torch divides by it), or
            an unknown `anneal_strategy`.

    Source: `torch.optim.lr_scheduler.OneCycleLR`; Smith and Topin (arXiv 1708.07120).
    """
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    start, end = max_lr / div_factor, max_lr / div_factor / final_div_factor
    values = (start, max_lr, start, end) if three_phase else (start, max_lr, end)
    return _one_cycle(values, steps, pct_start, anneal_strategy)


def one_cycle_momentum(
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    *,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """The momentum beside `one_cycle_lr`: `base_momentum` at the rate's peak, `max_momentum` at its ends.

        sgd(one_cycle_lr(0.1, 100), momentum=one_cycle_momentum(100))
        adamw(one_cycle_lr(1e-3, 100), betas=(one_cycle_momentum(100), 0.999))

    Raises:
        ValueError: as `one_cycle_lr`.

    Source: `torch.optim.lr_scheduler.OneCycleLR(cycle_momentum=True)`, its default.
    """
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    values = (max_momentum, base_momentum, max_momentum) + (max_momentum,) * three_phase
    return _one_cycle(values, steps, pct_start, anneal_strategy)


def sequential_lr(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """One schedule after another: from `milestones[i]` on, `schedules[i + 1]`, which counts from 0 there.

        sequential_lr([linear_lr(0.1), cosine_annealing_lr(0.1, T_max=95)], milestones=[5])

    `optax.join_schedules`, with torch's check. (A torch `OneCycleLR` in the sequence moves the initial rate
    of the others; give them that rate, `max_lr / div_factor`.)

    Raises:
        ValueError: no schedule, or not one milestone fewer than schedules.

    Source: `torch.optim.lr_scheduler.SequentialLR`.
    """
    if not schedules or len(milestones) != len(schedules) - 1:
        raise ValueError(
            "milestones must be one fewer than schedules, "
            f"got {len(milestones)} milestones and {len(schedules)} schedules"
        )
    return optax.join_schedules(schedules, milestones)


def _one_cycle(values: Sequence[Any], total_steps: int, pct_start: float, anneal_strategy: str) -> Schedule:
    """A curve through `values`, each phase with an end of its own."""
    _require_between("pct_start", pct_start, 0.0, 1.0)
    if anneal_strategy not in _ANNEAL:
        raise ValueError(f"anneal_strategy must be one of {', '.join(_ANNEAL)}, got {anneal_strategy!r}")
    anneal = _ANNEAL[anneal_strategy]
    # torch counts the peak from step 0, and so both ends come early: by one step, and by two.
    ends = [pct_start * total_steps - 1.0, 2 * pct_start * total_steps - 2.0][: len(values) - 2]
    ends.append(total_steps - 1.0)
    starts = [0.0, *ends[:-1]]
    if any(start == end for start, end in zip(starts, ends, strict=True)):
        raise ValueError(
            "pct_start must leave each phase a length, "
            f"got pct_start={pct_start} of total_steps={total_steps}"
        )

    def schedule(step: Any) -> jax.Array:
        step = jnp.where(step > total_steps, total_steps - 1, step)
        phases = [
            partial(anneal, values[i], values[i + 1], (step - begin) / (end - begin))
            for i, (begin, end) in enumerate(zip(starts, ends, strict=True))
        ]
        value = phases[-1]()
        for phase, end in reversed(list(zip(phases[:-1], ends, strict=False))):
            value = jnp.where(step <= end, phase(), value)
        return value

    return schedule


def _cosine(start: Any, end: Any, share: Any) -> Any:
    return end + (start - end) / 2.0 * (jnp.cos(math.pi * share) + 1.0)


def _line(start: Any, end: Any, share: Any) -> Any:
    return (end - start) * share + start


_ANNEAL = {"cos": _cosine, "linear": _line}


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise ValueError(
                "total_steps, or both epochs and steps_per_epoch, must be given, got "
                f"epochs={epochs} and steps_per_epoch={steps_per_epoch}"
            )
        _require_count("epochs", epochs)
        _require_count("steps_per_epoch", steps_per_epoch)
        return epochs * steps_per_epoch
    _require_count("total_steps", total_steps)
    return total_steps


def _require_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {name}={value}")


def _require_between(name: str, value: float, low: float, high: float, open_below: bool = False) -> None:
    inside = (low < value if open_below else low <= value) and value <= high
    if not inside:
        raise ValueError(
            f"{name} must be {'above' if open_below else 'at least'} {low:g} and at most {high:g}, "
            f"got {name}={value}"
        )
