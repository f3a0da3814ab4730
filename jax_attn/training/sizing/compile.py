"""Compiles a training step for devices that need not be there, and says what it takes."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from jax_attn.training.sizing.collectives import Collective, by_kind, collectives
from jax_attn.training.sizing.flops import FlopCount, count_flops
from jax_attn.training.sizing.hlo import Program
from jax_attn.training.sizing.memory import Memory, analysed, exhausted
from jax_attn.training.sizing.roofline import (
    Roofline,
    compute_seconds,
    interconnect_seconds,
    memory_bytes,
)
from jax_attn.training.sizing.step import AbstractStep
from jax_attn.training.sizing.target import Target

ESTIMATED = (
    "memory, traffic and collectives are estimates: JAX cannot compile for a GPU without one, so they are those of "
    "the program that XLA compiles for as many CPU devices, where 16-bit activations may be held in 32 bits and "
    "attention does not run in cuDNN; parameters, optimizer and FLOPs are exact"
)


@dataclass(frozen=True)
class Sizing:
    """What one step takes on each of the devices.

    Attributes:
        topology: the devices.
        chip: the name of one.
        mesh: sizes by axis.
        rows, tokens: of a batch.
        parameters: how many.
        memory: bytes on a device.
        flops: on all devices together.
        collectives: by kind; None where the program did not fit and was not compiled.
        roofline: seconds at best; None likewise.
        peak: FLOP/s of all devices together, in the dtype that most products are computed in.
        seconds: by what took them here: trace, lower, compile.
        notes: what is not exact, and why.
    """

    topology: str
    chip: str
    mesh: dict[str, int]
    rows: int
    tokens: int
    parameters: int
    memory: Memory
    flops: FlopCount
    collectives: list[Collective] | None
    roofline: Roofline
    peak: float
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """At best."""
        return self.tokens / self.roofline.seconds

    @cached_property
    def utilisation(self) -> float:
        """Model FLOPs utilisation at best: what is computed again does not count."""
        return self.flops.model / self.peak / self.roofline.seconds

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        memory = self.memory
        return {
            "topology": self.topology,
            "chip": self.chip,
            "mesh": self.mesh,
            "rows": self.rows,
            "tokens": self.tokens,
            "parameters": self.parameters,
            "fits": memory.fits,
            "bytes_a_device": {
                **memory.given,
                "temporaries": memory.temporaries,
                "of_which_gradients": memory.gradients,
                "code": memory.code,
                "total": memory.total,
                "limit": memory.limit,
                "exact": memory.exact,
            },
            "flops": {**vars(self.flops), "notes": list(self.flops.notes), "model": self.flops.model},
            "collectives": None if self.collectives is None else [vars(each) for each in self.collectives],
            "seconds_a_step": {
                **vars(self.roofline),
                "at_best": self.roofline.seconds,
                "bound": self.roofline.bound,
            },
            "tokens_per_second": self.tokens_per_second,
            "model_flops_utilisation": self.utilisation,
            "seconds_here": self.seconds,
            "notes": list(self.notes),
        }


def compile_step(step: AbstractStep, target: Target) -> Sizing:
    """Return what a step takes, compiled for the devices of its mesh.

    Raises:
        ValueError: the compiler fails, for another reason than memory.
    """
    seconds: dict[str, float] = {}

    def timed(what: str, action: Any) -> Any:
        started = time.perf_counter()
        value = action()
        seconds[what] = time.perf_counter() - started
        return value

    chip, devices = target.chip, step.mesh.size
    jitted = jax.jit(step.update, donate_argnums=0, out_shardings=(step.shardings, None))
    with jax.set_mesh(step.mesh):
        flops = timed("trace", lambda: count_flops(step.update, step.state, step.batch))
        if target.platform == "cuda":
            timed("lower for CUDA", lambda: _lower_for_cuda(jitted, step))
        lowered = timed("lower", lambda: jitted.lower(step.state, step.batch))
        try:
            compiled = timed("compile", lowered.compile)
        except jax.errors.JaxRuntimeError as error:
            memory = exhausted(step, str(error), chip.memory)
            if memory is None:
                told = " ".join(str(error).split())[:300]
                raise ValueError(f"the compiler for {target.name} gave up: {told}") from error
            compiled = None
        else:
            memory = analysed(step, compiled, chip.memory, target.exact)
    compute = compute_seconds(flops.total, flops.wide, devices, chip)
    notes = [*flops.notes, *([] if target.exact else [ESTIMATED])]
    found, roofline = None, Roofline(compute, None, None)
    if compiled is not None:
        program = Program.of(compiled.as_text())
        sent = collectives(program, devices)
        moved = None if chip.memory_bandwidth is None else memory_bytes(program) / chip.memory_bandwidth
        roofline = Roofline(compute, moved, interconnect_seconds(sent, chip, target.shape))
        found = by_kind(sent)
        notes += program.notes
    return Sizing(
        topology=target.name,
        chip=chip.name,
        mesh={axis: size for axis, size in step.mesh.shape.items() if size > 1},
        rows=step.rows,
        tokens=step.tokens,
        parameters=step.parameters,
        memory=memory,
        flops=flops,
        collectives=found,
        roofline=roofline,
        peak=(chip.float32 if 2 * flops.wide > flops.total else chip.bfloat16) * devices,
        seconds=seconds,
        notes=tuple(notes),
    )


def _lower_for_cuda(jitted: Any, step: AbstractStep) -> None:
    """Lower a step for CUDA, as it would run there; a step that cannot be raises."""
    from jax import export

    triton = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    export.export(jitted, platforms=["cuda"], disabled_checks=[triton])(step.state, step.batch)
