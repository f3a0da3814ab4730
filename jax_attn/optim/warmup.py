"""A linear warm-up, and what the learning rate does after it.

linear          down to the end in a straight line
cosine          down to the end along half a cosine
inverse-sqrt    down with the root of the step, for ever: the schedule of 2017
wsd             warm-up, stable, decay: level, and down along half a cosine in the last steps
constant        level
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax.numpy as jnp

from jax_attn.functional.checks import require_known, require_positive, require_probability
from jax_attn.optim.schedules import lambda_lr
from jax_attn.optim.transformation import Number, Schedule

Kind = Literal["linear", "cosine", "inverse-sqrt", "wsd", "constant"]
TIMESCALE = 10_000  # of "inverse-sqrt" without a warm-up


def warmup_schedule(
    kind: Kind, peak: Number, steps: int, warmup: int, *, end: float = 0.0, decay: int | None = None
) -> Schedule:
    """From 0 up to `peak` in a straight line over `warmup` steps, then as `kind` says; `step -> rate`.

    An optax schedule; `float(schedule(step))` is the rate for a torch optimizer. With a warm-up the first update
    has a rate of 0. From `steps` on the rate is that of the end.

    `warmup_schedule("inverse-sqrt", (D W)^-1/2, steps, W)` is `noam_lr(D, W)` one step later: the paper counts the
    first update as 1, and this, as transformers, as 0.

    Args:
        kind: what follows the warm-up.
        peak: the highest rate.
        steps: of the training. "inverse-sqrt" and "constant" do not depend on it.
        warmup: steps until the peak.
        end: the rate at the end, as a share of the peak; of linear, cosine and wsd.
        decay: steps of the decay of wsd; by default a tenth of all.

    Raises:
        ValueError: an unknown kind, steps below 1, phases that are longer than the training, or an end that is not
            in [0, 1] or that the kind does not have.

    Source: transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup`,
        `get_inverse_sqrt_schedule`, `get_wsd_schedule` and `get_constant_schedule_with_warmup`; Vaswani et al.
        (arXiv 1706.03762), Loshchilov and Hutter (1608.03983), Hu et al. (2404.06395).
    """
    require_known("kind", kind, get_args(Kind))
    require_positive("steps", steps)
    require_probability("end", end)
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup must be from 0 to steps={steps}, got {warmup}")
    if end and kind in ("inverse-sqrt", "constant"):
        raise ValueError(f"end must be 0 for {kind!r}, which has none, got {end}")
    last = steps // 10 if decay is None else decay
    if kind == "wsd" and not 0 <= last <= steps - warmup:
        raise ValueError(f"decay must be from 0 to steps - warmup = {steps - warmup}, got {last}")
    after = _after(kind, steps, warmup, end, last)

    def factor(step: Any) -> Any:
        return jnp.where(step < warmup, step / max(1, warmup), after(step))

    return lambda_lr(peak, factor)


def _after(kind: Kind, steps: int, warmup: int, end: float, decay: int) -> Callable[[Any], Any]:
    """The factor of the peak from the warm-up on; before it, any finite number."""
    if kind == "constant":
        return lambda step: 1.0
    if kind == "inverse-sqrt":
        scale = warmup or TIMESCALE
        return lambda step: jnp.sqrt(scale / (jnp.maximum(step, warmup) - warmup + scale))
    first = steps - decay if kind == "wsd" else warmup  # where it begins to fall

    def fall(step: Any) -> Any:
        share = jnp.clip((step - first) / max(1, steps - first), 0.0, 1.0)
        if first == steps:  # nothing is left to fall in
            share = jnp.where(step < steps, 0.0, 1.0)
        height = 1.0 - share if kind == "linear" else (1.0 + jnp.cos(math.pi * share)) / 2.0
        return end + (1.0 - end) * height

    return fall
