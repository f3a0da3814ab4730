"""Mutations of flattening: several axes become one, in another order than torch's."""

import math
from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import uses
from jax_attn.parity.mutations.injection import TorchCall, calling
from jax_attn.parity.mutations.mutation import Injector, Mutation

FLATTENING = ("flatten", "reshape", "view")
SWAPPED = "with the last two axes swapped, as (h, w) in the order (w, h)"


def merged(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int] | None:
    """The first and the last of the axes that become one, behind the batch; None if there are none."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = start + len(before) - len(after)
    whole = start and end > start and math.prod(before[start : end + 1]) == after[start]
    return (start, end) if whole and before[end + 1 :] == after[start + 1 :] else None


def in_order(words: str, change: Callable[[Any, int, int], Any]) -> Injector:
    """`change(x, start, end)` before those axes of x become one."""

    def caught(call: TorchCall) -> Any:
        value, x = call.run(), call.args[0]
        axes = merged(tuple(x.shape), tuple(value.shape)) if x.is_floating_point() else None
        if axes is None or sum(size > 1 for size in x.shape[axes[0] : axes[1] + 1]) < 2:
            return value
        two = axes[1] - axes[0] == 1  # whichever is moved, they are swapped
        call.hits.add(f"flattened {SWAPPED if two else words}", "flattened in the order of its axes")
        return change(x, *axes).reshape(value.shape)

    return calling(FLATTENING, caught)


ORDERS = {
    "first-last": ("with the first axis last, as (c, h, w) in the order (h, w, c)",
                   lambda x, start, end: x.movedim(start, end)),
    "last-first": ("with the last axis first, as (h, w, c) in the order (c, h, w)",
                   lambda x, start, end: x.movedim(end, start)),
    "last-swapped": (SWAPPED, lambda x, start, end: x.transpose(end - 1, end)),
}  # fmt: skip

FLATTENINGS = [
    Mutation(f"flatten-{name}", f"axes are flattened {words}", "flattening", uses("Flatten", *FLATTENING),
             in_order(words, change), family="layers", on=("decoder layer",))
    for name, (words, change) in ORDERS.items()
]  # fmt: skip
