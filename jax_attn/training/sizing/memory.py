"""Bytes on each device: what a step is given, and what the compiler says that it needs besides."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jax_attn.training.sizing.step import AbstractStep

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# "Used 21.16G of 15.75G hbm", "the total memory required for ... (608.00G) exceeds available HBM (15.25G)"
_EXHAUSTED = (
    re.compile(r"Used ([\d.]+)([KMGT]?)\w* of ([\d.]+)([KMGT]?)"),
    re.compile(r"\(([\d.]+)([KMGT]?)\w*\) exceeds available \w+ \(([\d.]+)([KMGT]?)"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while the step runs.

    Attributes:
        given: by what it is: parameters, optimizer, moving average, other state, batch; by arithmetic.
        temporaries: activations, gradients and scratch space; None where the compiler did not tell them apart.
        total: all together.
        gradients: what the gradients alone take, once; they are among the temporaries.
        code: of the program itself; None likewise.
        limit: what the device lets a program use; None where that is not known.
        exact: whether the total is the compiler's of the device itself.
    """

    given: Mapping[str, int]
    temporaries: int | None
    total: int
    gradients: int
    code: int | None
    limit: float | None
    exact: bool = True

    @property
    def fits(self) -> bool:
        """Whether there is room; True where the limit is not known."""
        return self.limit is None or self.total <= self.limit


def given_bytes(step: AbstractStep) -> dict[str, int]:
    """Return the bytes that each device holds of what a step takes, by what it is."""
    state = step.state
    parts = {
        "parameters": state.params,
        "optimizer": state.optimizer,
        "moving average": state.ema,
        "other state": (state.rest, state.step),
        "batch": step.batch,
    }
    sizes = {name: sum(map(bytes_a_device, jax.tree.leaves(tree))) for name, tree in parts.items()}
    return {
        name: size for name, size in sizes.items() if size or name in ("parameters", "optimizer", "batch")
    }


def bytes_a_device(leaf: Any) -> int:
    """Return the bytes that a device holds of an array with a sharding."""
    dtype = leaf.dtype
    size = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * size


def analysed(step: AbstractStep, compiled: Any, limit: float | None, exact: bool) -> Memory:
    """Return the memory of a compiled step, by the compiler's own analysis."""
    found = compiled.memory_analysis()
    # What is donated is written in place; a result that takes no argument's place counts beside it.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    temporaries = found.temp_size_in_bytes + results
    code = found.generated_code_size_in_bytes
    total = found.argument_size_in_bytes + temporaries + code
    given = given_bytes(step)
    return Memory(given, temporaries, total, given["parameters"], code, limit, exact)


def exhausted(step: AbstractStep, message: str, limit: float | None) -> Memory | None:
    """Return what a compiler's RESOURCE_EXHAUSTED says was needed; None for any other error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    given = given_bytes(step)
    for pattern in _EXHAUSTED:
        if found := pattern.search(message):
            used, used_unit, most, most_unit = found.groups()
            needed = int(float(used) * _UNITS[used_unit])
            return Memory(given, None, needed, given["parameters"], None, float(most) * _UNITS[most_unit])
    return Memory(given, None, sum(given.values()), given["parameters"], None, limit)
