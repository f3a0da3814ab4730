"""How long a step takes at least: the slowest of computing, moving memory, and sending.

An estimate from peaks, not a prediction: real programs reach 40 to 70% of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jax_attn.training.sizing.chips import Chip
from jax_attn.training.sizing.collectives import Collective
from jax_attn.training.sizing.hlo import Instruction, Program

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call",
    "partition-id", "replica-id", "opt-barrier", "add-dependency", "iota", "",
}  # fmt: skip
SLICES = {"dynamic-slice", "slice", "gather"}
WRAP = {2: 16, 3: 4}  # a TPU's axis is a ring where its length is a multiple of this, by the number of axes


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step, if each alone held it up; None where a figure is missing.

    Attributes:
        compute: products, all devices equally busy, at the peak.
        memory: what is read from and written to main memory.
        interconnect: what is sent, one collective after another.
    """

    compute: float
    memory: float | None
    interconnect: float | None

    @property
    def parts(self) -> dict[str, float]:
        """Those that are known, the longest first."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return dict(sorted(known.items(), key=lambda pair: -pair[1]))

    @property
    def seconds(self) -> float:
        """The longest: all three at once, perfectly overlapped."""
        return max(self.parts.values())

    @property
    def bound(self) -> str:
        """Which is the longest."""
        return next(iter(self.parts))


def compute_seconds(flops: int, wide: int, devices: int, chip: Chip) -> float:
    """Return the time of products, `wide` of whose FLOPs are of float32 or wider."""
    return ((flops - wide) / chip.bfloat16 + wide / chip.float32) / devices


def interconnect_seconds(found: Iterable[Collective], chip: Chip, shape: Sequence[int]) -> float | None:
    """Return the time to send it all.

    Args:
        found: the collectives of a step.
        chip: a device.
        shape: of a TPU's topology, chips along each axis; of others anything.
    """
    found = list(found)
    if chip.link is None:
        return None if found else 0.0
    return sum(each.sent / bandwidth(chip, shape, each.group) for each in found)


def bandwidth(chip: Chip, shape: Sequence[int], group: int) -> float:
    """Return the bytes/s at which a device sends to the others of a group, at most."""
    link = chip.link or math.inf
    if chip.island is not None and group > chip.island:
        return chip.network or link
    if not chip.torus:
        return link
    sides = sorted((side for side in shape if side > 1), reverse=True)
    multiple, speed, reached = WRAP.get(len(shape), 4), 0.0, 1
    for side in sides:
        speed += (2 if side % multiple == 0 else 1) * link
        reached *= side
        if reached >= group:
            break
    return speed or link


def memory_bytes(program: Program) -> int:
    """Return the bytes that a device reads and writes in a step.

    Each operation reads its operands and writes its result; what lies on the chip, and what of an operand or result
    a fusion leaves out (slices, updates in place), does not count.
    """
    return sum(
        times * _moved(program, program.computations[name], instruction)
        for name, instruction, times in program
        if name not in program.inlined
    )


def _moved(program: Program, around: dict[str, Instruction], instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done"):
        return 0
    if opcode.endswith("-start") or opcode == "broadcast":
        return instruction.main_memory_bytes
    operands = [around[name].main_memory_bytes if name in around else 0 for name in instruction.operands]
    if opcode in SLICES:
        return 2 * min(instruction.main_memory_bytes, operands[0])
    if opcode == "dynamic-update-slice":
        return 2 * operands[1]
    body = program.computations.get(instruction.attribute("calls") or "", {}) if opcode == "fusion" else {}
    parameters = {each.name: int(each.inside) for each in body.values() if each.opcode == "parameter"}
    result, updated = _written(instruction, body)
    for name, at in parameters.items():
        if at < len(operands):
            operands[at] = int(min(operands[at], 0 if name in updated else _read(name, body)))
    return result + sum(operands)


def _read(parameter: str, body: dict[str, Instruction]) -> float:
    """How much of a fusion's parameter it reads: the slices, where it takes nothing else."""
    users = [each for each in body.values() if parameter in each.operands]
    total = 0.0
    for each in users:
        if each.opcode in ("bitcast", "copy"):
            total += _read(each.name, body)
        elif each.opcode in SLICES and each.operands[0] == parameter:
            total += each.bytes
        else:
            return math.inf
    return total if users else 0.0


def _written(instruction: Instruction, body: dict[str, Instruction]) -> tuple[int, set[str]]:
    """The bytes of a fusion's result, and the parameters that it updates in place."""
    root = next((each for each in body.values() if each.is_root), None)
    ends = [] if root is None else [root.name, *(root.operands if root.opcode == "tuple" else ())]
    result, updated = instruction.main_memory_bytes, set()
    for end in (body[name] for name in ends if name in body):
        while end.opcode == "bitcast" and end.operands and end.operands[0] in body:
            end = body[end.operands[0]]
        if end.opcode == "dynamic-update-slice" and end.operands[0] in body:
            target, piece = (body.get(name) for name in end.operands[:2])
            while target is not None and target.opcode == "bitcast":
                target = body.get(target.operands[0])
            if target is not None and target.opcode == "parameter":
                updated.add(target.name)
                result -= min(result, end.bytes) - (piece.bytes if piece else 0)
    return result, updated
