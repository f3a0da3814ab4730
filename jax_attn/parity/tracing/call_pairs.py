"""Which call of Flax corresponds to which of torch.

It is the n-th of a module to the n-th of its counterpart, unless that was given something else, and another
call was given the same: a shared module may be called in another order.
"""

from collections import Counter
from collections.abc import Callable

from jax_attn.parity.tracing.module_pairs import ModulePairs
from jax_attn.parity.tracing.recording import CallRecord, Recording

LeftOutCall = tuple[str, str, str]
"""(side, path, reason) of a module that was called and not compared."""


class CallPairs:
    """Finds the counterpart of each call of Flax, as they come by.

    Args:
        torch: the calls of torch.
        pairs: the modules that correspond.
    """

    def __init__(self, torch: Recording, pairs: ModulePairs):
        self.torch = torch
        self.pairs = pairs
        self.waiting: dict[int, list[CallRecord]] = {}
        for call in reversed(torch.calls):
            number = pairs.groups.get(("torch", call.path))
            if number is not None:
                self.waiting.setdefault(number, []).append(call)
        self.found: dict[int, CallRecord] = {}  # by the index of the call in Flax

    def take(self, call: CallRecord, same_inputs: Callable[[CallRecord], bool]) -> None:
        """Find the counterpart of the next call of Flax; `same_inputs` asks about a call of torch."""
        waiting = self.waiting.get(self.pairs.groups.get(("flax", call.path), -1))
        if not waiting:
            return
        last = len(waiting) - 1
        order = range(last, -1, -1) if last else ()
        self.found[call.index] = waiting.pop(next((i for i in order if same_inputs(waiting[i])), last))

    def uneven(self, flax: Recording) -> set[int]:
        """The groups of modules that one side calls more often than the other."""
        counts = [
            Counter(self.pairs.groups.get((side.side, call.path), -1) for call in side.calls)
            for side in (flax, self.torch)
        ]
        return {number for number in counts[0] if counts[0][number] != counts[1][number]}

    def left_out(self, flax: Recording) -> list[LeftOutCall]:
        """The calls without a counterpart, each module once."""
        taken = {call.index for call in self.found.values()}
        alone = [("flax", call.path) for call in flax.calls if call.index not in self.found]
        alone += [("torch", call.path) for call in self.torch.calls if call.index not in taken]
        paired = {("flax", flax.calls[index].path) for index in self.found}
        paired |= {("torch", call.path) for call in self.found.values()}
        return [(*end, self._reason(end, end in paired)) for end in dict.fromkeys(alone)]

    def _reason(self, end: tuple[str, str], sometimes: bool) -> str:
        other = "torch" if end[0] == "flax" else "flax"
        if end not in self.pairs.groups:
            return f"no module of {other} corresponds to it"
        return f"{other} calls its counterpart {'less often' if sometimes else 'never'}"
