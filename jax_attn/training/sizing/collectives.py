"""What devices send to each other in a compiled program: which collectives, how many bytes."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jax_attn.training.sizing.hlo import Instruction, Program

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
# A fusion of TPUs that computes a reduce-scatter as an all-reduce of which each device keeps a part.
SCATTER_FUSION = "all-reduce-scatter"


@dataclass(frozen=True)
class Collective:
    """One instruction, or all of one kind.

    Attributes:
        kind: one of `KINDS`.
        group: how many devices take part in one.
        times: how often it runs in a step.
        bytes: what each device has of it in a step: of all-gather the whole result, else the operand; all runs
            together.
        sent: bytes that each device sends, in a ring; all runs together.
    """

    kind: str
    group: int
    times: int
    bytes: int
    sent: float


def collectives(program: Program, devices: int) -> list[Collective]:
    """Return the collectives of a compiled program, those in loops as often as they run.

    Args:
        program: what one device runs.
        devices: how many run it.
    """
    found, seen = [], set()
    for computation, instruction, times in program:
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS or times == 0:
            continue
        # A TPU sends while it computes: each of several fusions has the whole instruction and does a part of it.
        if chain := re.search(r'chain_id="\d+"', instruction.attributes):
            part = (chain.group(), *re.findall(r"channel_id=\d+", instruction.attributes))
            if part in seen:
                continue
            seen.add(part)
        if computation.startswith(SCATTER_FUSION):
            kind = "reduce-scatter"
        group = _group(instruction, devices)
        if group == 1 and kind != "collective-permute":
            continue
        around = program.computations[computation]
        operand = sum(around[name].bytes for name in instruction.operands if name in around)
        whole = operand * group if kind == "all-gather" else operand
        found.append(Collective(kind, group, times, whole * times, _sent(kind, whole, group) * times))
    return found


def by_kind(found: Iterable[Collective]) -> list[Collective]:
    """Return one for each kind and size of group, the most bytes first."""
    totals: dict[tuple[str, int], Collective] = {}
    for each in found:
        before = totals.get((each.kind, each.group), Collective(each.kind, each.group, 0, 0, 0))
        totals[each.kind, each.group] = Collective(
            each.kind,
            each.group,
            before.times + each.times,
            before.bytes + each.bytes,
            before.sent + each.sent,
        )
    return sorted(totals.values(), key=lambda each: -each.sent)


def _sent(kind: str, whole: int, group: int) -> float:
    """Bytes that a device sends, where all are in a ring and pass on what they have."""
    if kind == "collective-permute":
        return whole
    once = whole * (group - 1) / group
    return 2 * once if kind == "all-reduce" else once


def _group(instruction: Instruction, devices: int) -> int:
    """How many devices take part, by what XLA writes: lists, an iota, or axes of a mesh."""
    text = instruction.attributes
    if instruction.opcode.startswith("collective-permute"):
        return devices
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text):
        return int(found.group(2))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(found.group(1).split(","))
    return devices
