"""Where two modules begin to differ."""

import math
from dataclasses import dataclass
from typing import Any

from jax_attn.parity.text import plain
from jax_attn.parity.tracing.differences import Difference


@dataclass(frozen=True)
class Divergence:
    """The first submodule that does something else.

    Attributes:
        direction: "forward" or "backward".
        kind: what differs: "output", "input gradient" or "parameter gradient"; or "raised", or
            "not comparable".
        flax_path: the module's path in Flax; empty for the module itself.
        torch_path: its counterpart's path in torch.
        flax_class: name of its class.
        torch_class: name of its counterpart's class.
        call: which call of the module it is, from 1.
        difference: how far what differs is apart, and where in the tensor.
        given: error of what it was given: its inputs, or backward the gradient of its output.
        isolated: its error when given torch's, submodules included; what is left is its own doing.
        own_code: whether the module has submodules that were compared, and all of them are right.
        unseen: its submodules that were not compared, each with the reason.
        after: the submodule before whose call, in the order of the direction, all was well.
        before: the submodule which was given something wrong.
        handed: how far apart what `before` was given is.
        notes: what else may matter: inputs that differ, modules that could not be compared.
    """

    direction: str
    kind: str
    flax_path: str
    torch_path: str
    flax_class: str
    torch_class: str
    call: int
    difference: Difference | None
    given: Difference | None = None
    isolated: Difference | None = None
    own_code: bool = False
    unseen: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    handed: Difference | None = None
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The error of what differs; NaN where there is no number."""
        return math.nan if self.difference is None else self.difference.error

    @property
    def bound(self) -> float:
        """The bound of that error."""
        return math.nan if self.difference is None else self.difference.bound

    def to_json(self) -> dict[str, Any]:
        """Everything, in the types of JSON."""
        return plain(vars(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Divergence":
        """The inverse of `to_json`."""
        read: dict[str, Any] = {**data, "notes": tuple(data["notes"]), "unseen": tuple(data["unseen"])}
        for name in _DIFFERENCES:
            read[name] = data[name] and Difference.from_json(data[name])
        return cls(**read)

    def __str__(self) -> str:
        lines = [f"first divergence, {self.direction}: {self._place()}"]
        given = "inputs" if self.direction == "forward" else "gradient of its output"
        rows = [(self.kind, self.difference), (given, self.given), ("isolated", self.isolated)]
        rows.append((f"given to {self.before or ITSELF}", self.handed))
        for name, difference in rows:
            if difference is not None:
                verdict = "agrees" if difference.agrees else "DIFFERS"
                lines.append(f"  {name}: {verdict}, {difference} (bound {difference.bound:.3g})")
        if self.own_code:
            ends = [("after", self.after), ("before", self.before)]
            where = " and ".join(f"{word} {path}" for word, path in ends if path)
            order = "" if self.direction == "forward" else ", backward"
            which, rest = (
                ("its submodules", "")
                if not self.unseen
                else ("those of its submodules that were compared", " or in what was not")
            )
            lines.append(
                f"  {which} are right: it is in its own code{rest}{order}{', ' + where if where else ''}"
            )
        if self.unseen:
            more = f" and {len(self.unseen) - 6} more" if len(self.unseen) > 6 else ""
            lines.append(f"  not compared inside it: {', '.join(self.unseen[:6])}{more}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _place(self) -> str:
        """The module on either side; on one, where the other has no counterpart."""
        sides = [("", self.flax_path, self.flax_class), ("in torch ", self.torch_path, self.torch_class)]
        known = [f"{side}{path or ITSELF} ({kind})" for side, path, kind in sides if kind != "no counterpart"]
        return "; ".join([*known, *([f"call {self.call}"] if self.call > 1 else [])])


ITSELF = "the module itself"

_DIFFERENCES = ("difference", "given", "isolated", "handed")
