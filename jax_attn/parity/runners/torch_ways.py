"""Ways to run a torch module that does not run in a lane's dtype as it is, without changing what it computes."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.torch_casts import Casts
from jax_attn.parity.runners.torch_functions import intercepting

LONG = "integers are given to torch in 64 bits: in the width given it does not take them"
KEPT = "stays in its own dtype, as loading in the lane's leaves it: no checkpoint holds it"
ROUNDED = "rounded, as module.to(dtype) does: kept in its own dtype, the module does not run in the lane's"
PROMOTED = "a cast inside meets weights of another dtype, which torch refuses: both are taken in the wider"


class Ways:
    """How a module is run. Found out when it first does not run as it is.

    Args:
        casts: how it was cast.
        forward: `forward(call, inputs)`, of the module.
    """

    def __init__(self, casts: Casts, forward: Callable[[Call, list[Any]], Any]):
        self.casts = casts
        self.forward = forward
        self.taken: tuple[str, ...] = ()

    def value(
        self, call: Call, inputs: list[Any], intercept: Callable[[], AbstractContextManager[Any]]
    ) -> Any:
        """What the module gives; if it raises, in the first way in which it does not."""
        try:
            value = self._run(call, inputs, intercept)
        except Exception:
            if self.taken:
                raise
            for ways in self._combinations(inputs):
                if self._runs(ways, call, inputs) is not None:
                    self._take(ways)
                    return self._run(call, inputs, intercept)
            raise
        if self.casts.kept and not self.taken and self._is_wide(value):
            rounded = self._runs((ROUNDED,), call, inputs)
            if rounded is not None and not self._is_wide(rounded):
                self._take((ROUNDED,))
                return self._run(call, inputs, intercept)
        return value

    def settle(self, call: Call, inputs: list[Any]) -> bool:
        """Whether another way is needed, and was found: for those who watch a run and cannot repeat it."""
        if self.taken:
            return False
        with suppress(Exception):
            self.value(call, inputs, nullcontext)
        return bool(self.taken)

    def once(self, call: Call, inputs: list[Any]) -> Any:
        """What the module gives in the way that was found."""
        return self._run(call, inputs, nullcontext)

    def _run(self, call: Call, inputs: list[Any], intercept: Callable[[], Any]) -> Any:
        with intercept(), self.around(self.taken):
            return self.forward(call, self._given(inputs, self.taken))

    def _combinations(self, inputs: list[Any]) -> list[tuple[str, ...]]:
        possible = [PROMOTED]
        if self.casts.kept:
            possible.insert(0, ROUNDED)
        if any(_is_narrow_integer(tensor) for tensor in inputs):
            possible.insert(0, LONG)
        return [ways for size in (1, 2, 3) for ways in itertools.combinations(possible, size)]

    def _runs(self, ways: tuple[str, ...], call: Call, inputs: list[Any]) -> Any:
        """What the module gives in these ways; None if it raises."""
        import torch

        with self.casts.rounding() if ROUNDED in ways else nullcontext(), self.around(ways):
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    return self.forward(call, self._given(inputs, ways))
            except Exception:
                return None

    def _take(self, ways: tuple[str, ...]) -> None:
        self.taken = ways
        if ROUNDED in ways:
            self.casts.round()

    def around(self, ways: tuple[str, ...]) -> AbstractContextManager[Any]:
        """Within it, dtypes are promoted where that is the way."""
        return intercepting(_promoted) if PROMOTED in ways else nullcontext()

    def _given(self, inputs: list[Any], ways: tuple[str, ...]) -> list[Any]:
        return [t.long() if _is_narrow_integer(t) else t for t in inputs] if LONG in ways else inputs

    def _is_wide(self, value: Any) -> bool:
        import torch
        from torch.utils._pytree import tree_leaves

        narrow = torch.finfo(getattr(torch, self.casts.lane.dtype)).eps
        return any(
            isinstance(leaf, torch.Tensor)
            and leaf.is_floating_point()
            and torch.finfo(leaf.dtype).eps < narrow
            for leaf in tree_leaves(value)
        )


def _is_narrow_integer(tensor: Any) -> bool:
    import torch

    kinds = (torch.bool, torch.int64)
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype in kinds)


def _promoted(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that refuses floats of several dtypes gets them all in the widest."""
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    try:
        return function(*args, **kwargs)
    except (RuntimeError, ValueError):
        leaves, spec = tree_flatten((args, kwargs))
        floats = {leaf.dtype for leaf in leaves if _is_float_tensor(leaf)}
        if len(floats) < 2:
            raise
        widest = min(floats, key=lambda dtype: torch.finfo(dtype).eps)
        wide = [leaf.to(widest) if _is_float_tensor(leaf) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(wide, spec)
        return function(*args, **kwargs)


def _is_float_tensor(leaf: Any) -> bool:
    import torch

    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
