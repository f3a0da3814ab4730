"""Reads the text of a compiled program: its instructions, and how often each runs.

XLA prints one instruction a line, `%name = type opcode(%operand, ...), attribute=..., ...`, in computations that
others call: loops, fusions, branches.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^| )([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_NAME = re.compile(r"%([\w.\-]+)")
_ON_CHIP = re.compile(r"S\([1-9]")  # another memory than the device's main one
BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        name, type, opcode: `%name = type opcode(...)`.
        operands: their names.
        inside: the text of the operands; of a constant its value, of a parameter its number.
        attributes: what follows.
        is_root: whether it is what its computation returns.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    is_root: bool

    @cached_property
    def bytes(self) -> int:
        """Of the result, wherever it lies."""
        return sum(size for size, _ in _arrays(self.type))

    @cached_property
    def main_memory_bytes(self) -> int:
        """Of the result, without what lies in memory on the chip."""
        return sum(size for size, on_chip in _arrays(self.type) if not on_chip)

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        branches = _BRANCHES.search(self.attributes)
        listed = _NAME.findall(branches.group(1)) if branches else []
        return [*_CALLED.findall(self.attributes), *listed]

    def attribute(self, name: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None


@dataclass
class Program:
    """A compiled program for one device.

    Attributes:
        entry: the name of the computation that runs first.
        computations: the instructions of each, by name.
        notes: what could not be read, such as the length of a loop.
        inlined: the computations inside of one instruction, such as a fusion; known with `runs`.
    """

    entry: str
    computations: dict[str, dict[str, Instruction]]
    notes: list[str] = field(default_factory=list)
    inlined: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, text: str) -> "Program":
        """Read what `compiled.as_text()` gives."""
        computations: dict[str, dict[str, Instruction]] = {}
        entry, current = "", None
        for line in text.splitlines():
            if current is None:
                if head := _HEAD.match(line):
                    current = computations.setdefault(head.group(2), {})
                    entry = head.group(2) if head.group(1) else entry
            elif line.startswith("}"):
                current = None
            elif found := _INSTRUCTION.match(line):
                instruction = _instruction(found.group(2), found.group(3), bool(found.group(1)))
                current[instruction.name] = instruction
        return cls(entry, computations)

    @cached_property
    def runs(self) -> Counter[str]:
        """How often each computation runs; fusions and what they call too."""
        found: Counter[str] = Counter()

        def visit(name: str, times: int) -> None:
            found[name] += times
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode == "while":
                    turns = self.turns(name, instruction)
                    visit(instruction.attribute("body") or "", times * turns)
                    visit(instruction.attribute("condition") or "", times * (turns + 1))
                else:
                    if instruction.opcode not in ("conditional", "call", "async-start"):
                        self.inlined.update(instruction.called)
                    for called in instruction.called:
                        visit(called, times)

        visit(self.entry, 1)
        self.notes = list(dict.fromkeys(self.notes))
        return found

    def __iter__(self) -> Iterator[tuple[str, Instruction, int]]:
        """Each instruction that runs, with its computation and how often."""
        for name, times in self.runs.items():
            for instruction in self.computations.get(name, {}).values():
                yield name, instruction, times

    def turns(self, computation: str, loop: Instruction) -> int:
        """How often the body of a `while` runs: as the compiler says, or by its condition, `i < n`."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations.get(loop.attribute("condition") or "", {})
        body = self.computations.get(loop.attribute("body") or "", {})
        root = next((each for each in condition.values() if each.is_root), None)
        if root is not None and root.opcode == "compare" and len(root.operands) == 2:
            counter, bound = (condition.get(name) for name in root.operands)
            if counter and counter.opcode == "get-tuple-element" and bound and bound.opcode == "constant":
                at = int((re.search(r"index=(\d+)", counter.attributes) or ["", "0"])[1])
                start = self._start(computation, loop, at)
                step = _step(body, at)
                if bound.inside.lstrip("-").isdigit() and "direction=LT" in root.attributes:
                    return max(0, math.ceil((int(bound.inside) - start) / step))
        self.notes.append("a loop whose length is not in the compiled code was counted once")
        return 1

    def _start(self, computation: str, loop: Instruction, at: int) -> int:
        """Where the counter of a loop starts; 0, as JAX has it, where that cannot be seen."""
        around = self.computations[computation]
        given = around.get(loop.operands[0])
        if given is None or given.opcode != "tuple":
            return 0
        value = around.get(given.operands[at])
        while value is not None and value.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            value = around.get(value.operands[0])
        known = value is not None and value.opcode == "constant" and value.inside.lstrip("-").isdigit()
        return int(value.inside) if known and value is not None else 0


def _step(body: dict[str, Instruction], at: int) -> int:
    """What a turn adds to the counter; 1, as JAX has it, where that cannot be seen."""
    root = next((each for each in body.values() if each.is_root), None)
    value = body.get(root.operands[at]) if root is not None and root.opcode == "tuple" else None
    if value is None or value.opcode != "add":
        return 1
    added = [body[name].inside for name in value.operands if name in body and body[name].opcode == "constant"]
    return int(added[0]) if added and added[0].isdigit() and int(added[0]) > 0 else 1


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    opcode = _OPCODE.search(rest)
    if opcode is None:
        return Instruction(name, rest, "", (), "", "", is_root)
    depth, end = 0, opcode.end()
    for end in range(opcode.end() - 1, len(rest)):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        if depth == 0:
            break
    inside = rest[opcode.end() : end]
    operands = () if opcode.group(1) == "constant" else tuple(_NAME.findall(inside))
    return Instruction(
        name, rest[: opcode.start()], opcode.group(1), operands, inside, rest[end + 1 :], is_root
    )


def _arrays(text: str) -> list[tuple[int, bool]]:
    """Bytes of each array of a type, and whether it lies in memory on the chip."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        digits = re.search(r"\d+", dtype)
        bits = BITS.get(dtype, int(digits.group()) if digits else 0)
        count = math.prod(int(size) for size in sizes.split(",") if size)
        found.append((count * bits // 8, bool(_ON_CHIP.search(layout))))
    return found
