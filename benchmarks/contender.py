"""Something to time: a function of JAX, compiled for its operands, or of another framework."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        run: computes once, and returns arrays of any framework.
        results: turns what `run` returns into NumPy arrays, laid out as everyone's; None: not compared.
        temporaries: bytes that XLA holds beside arguments and results; None where nobody tells.
    """

    run: Callable[[], Any]
    results: Callable[[Any], Sequence[np.ndarray]] | None = None
    temporaries: int | None = None


def jitted(
    function: Callable[..., jax.Array], *operands: Any, cotangent: jax.Array | None = None
) -> Contender:
    """A JAX function as a contender: compiled beforehand for these operands.

    With the `cotangent` of its output, the gradients of all operands are computed as well.
    """

    def both(cotangent: jax.Array, *operands: Any) -> Any:
        output, pullback = jax.vjp(function, *operands)
        return output, pullback(cotangent)

    if cotangent is None:
        contender = compiled(function, *operands)
    else:
        contender = compiled(both, cotangent, *operands)
    return replace(contender, results=_numpy_leaves)


def compiled(function: Callable[..., Any], *operands: Any) -> Contender:
    """A JAX function as a contender whose results are not compared."""
    program = jax.jit(function).lower(*operands).compile()
    memory = program.memory_analysis()
    return Contender(
        lambda: program(*operands), temporaries=None if memory is None else memory.temp_size_in_bytes
    )


def _numpy_leaves(result: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(result)]


def output_alone(contender: Contender) -> Contender:
    """The contender, of whose results only the first is compared."""
    results = contender.results
    return contender if results is None else replace(contender, results=lambda found: results(found)[:1])
