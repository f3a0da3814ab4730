"""Inputs that stress a module: what a port gets wrong shows at the edges, not on N(0, 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call of a module: positional and keyword arguments, arrays as NumPy (floats in float64).

    The arrays of `args` and `kwargs` are cast to each lane's dtype; everything else is passed as it is.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def token_cases(
    width: int, tokens: int = 5, batch: int = 3, *, context: int | None = None, mean: float = 10.0, seed: int = 0
) -> list[Case]:
    """The usual cases of a module that takes `(b, t, width)` and `(t, width)`.

    Args:
        width: size of the last axis.
        tokens: `t` of the ordinary cases.
        batch: `b` of the batched cases.
        context: the full context length, where the module has one; adds a case with that many tokens.
        mean: the mean of the "large mean" case, whose standard deviation is 1.
        seed: seed of the numbers.
    """
    draw = np.random.default_rng(seed).standard_normal
    cases = [
        Case("plain", (draw((batch, tokens, width)),)),
        Case("large mean", (mean + draw((batch, tokens, width)),)),
        Case("tiny variance", (1e-3 * draw((batch, tokens, width)),)),
        Case("unbatched", (draw((tokens, width)),)),
        Case("one token", (draw((batch, 1, width)),)),
    ]
    if context is not None:
        cases.append(Case("full context", (draw((batch, context, width)),)))
    return cases
