"""What a trace holds: every paired call of two modules, with its errors."""

from dataclasses import dataclass, field
from typing import Any

from jax_attn.parity.text import plain, table
from jax_attn.parity.tracing.differences import Difference
from jax_attn.parity.tracing.forcing import Lesson
from jax_attn.parity.tracing.recording import TOP, CallRecord, Failure


@dataclass
class TracedCall:
    """One call of a pair of submodules; what could not be compared is None.

    Attributes:
        flax: the call in Flax; of its tensors only the shapes are kept.
        torch: the call in torch.
        lesson: which of their tensors are compared.
        parent: the paired call around it, by its place in the trace, or `TOP`.
        output: error of the output, as the modules ran.
        inputs: error of the floating inputs.
        other_inputs: differences of masks and other inputs that are not floating: one side may mean the
            opposite by them.
        isolated: error of the output, given torch's inputs and what torch's submodules returned.
        output_gradient: error of the gradient of the output.
        input_gradient: error of the gradient that this call gives its inputs.
        parameter_gradient: error of the gradients of the parameters in and below the module.
        isolated_gradient: `input_gradient`, given torch's gradient of the output.
        note: what was not compared.
    """

    flax: CallRecord
    torch: CallRecord
    lesson: Lesson = field(repr=False)
    parent: int = TOP
    output: Difference | None = None
    inputs: Difference | None = None
    other_inputs: list[str] = field(default_factory=list)
    isolated: Difference | None = None
    output_gradient: Difference | None = None
    input_gradient: Difference | None = None
    parameter_gradient: Difference | None = None
    isolated_gradient: Difference | None = None
    note: str = ""

    @property
    def path(self) -> str:
        """The path in Flax."""
        return self.flax.path

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors."""
        errors = {name: value for name, value in vars(self).items() if isinstance(value, Difference | None)}
        return {
            "flax": self.flax.path,
            "torch": self.torch.path,
            "flax_class": self.flax.kind,
            "torch_class": self.torch.kind,
            "call": self.flax.number + 1,
            "parent": self.parent,
            **plain(errors),
            "other_inputs": self.other_inputs,
            "note": self.note,
        }


@dataclass
class ModuleTrace:
    """Everything that a trace found.

    Attributes:
        case: name of the case.
        lane: name of the lane.
        whole: what goes in and comes out of the run as a whole.
        calls: the paired calls, in torch's order.
        left_out: (side, path, reason) of each module that was called and not compared.
        failure: what a side raised.
        backward: whether gradients were traced.
        notes: what else there is to say.
        seconds: the time it took.
    """

    case: str
    lane: str
    whole: TracedCall
    calls: list[TracedCall] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    failure: Failure | None = None
    backward: bool = False
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {
            "case": self.case,
            "lane": self.lane,
            "seconds": self.seconds,
            "backward": self.backward,
            "output": plain(self.whole.output),
            "calls": [call.to_json() for call in self.calls],
            "left_out": [list(entry) for entry in self.left_out],
            "failure": None if self.failure is None else str(self.failure),
            "notes": self.notes,
        }

    def __str__(self) -> str:
        columns = {"output": "output", "inputs": "inputs", "isolated": "isolated"}
        if self.backward:
            columns |= {"gradient out": "output_gradient", "gradient in": "input_gradient"}
            columns |= {"gradient of weights": "parameter_gradient", "isolated gradient": "isolated_gradient"}
        rows = [["call", "class", *columns]]
        for call in self.calls:
            name = f"{call.path or '(the module)'}{f' #{call.flax.number + 1}' if call.flax.number else ''}"
            rows.append([name, call.flax.kind, *(_cell(getattr(call, field)) for field in columns.values())])
        lines = [*self.notes, *([str(self.failure)] if self.failure else []), table(rows)]
        lines += [
            f"not compared: {path or 'the module'} of {side}: {why}" for side, path, why in self.left_out
        ]
        return "\n".join(lines)

    def children(self, parent: int) -> list[tuple[int, TracedCall]]:
        """The paired calls that a call makes, in torch's order, with their places."""
        return [(place, call) for place, call in enumerate(self.calls) if call.parent == parent]


def _cell(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return f"{difference.error:.2g}" + ("" if difference.agrees else " DIFFERS")
