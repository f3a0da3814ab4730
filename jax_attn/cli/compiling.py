"""What `jax-attn compile` does with what it was given."""

import json as json_text
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jax_attn.cli.files import write_texts
from jax_attn.cli.terminal import progress_on, tell_written, terminal
from jax_attn.cli.user_file import load_function
from jax_attn.training.mesh import make_mesh
from jax_attn.training.sizing.compile import Sizing, compile_step
from jax_attn.training.sizing.search import Candidate, Tried, candidates, meshes
from jax_attn.training.sizing.search import search as try_all
from jax_attn.training.sizing.step import AbstractStep, Description, abstract_step, batch_of
from jax_attn.training.sizing.target import Target, target
from jax_attn.training.sizing.text import rate, sizing_text, verdict

FUNCTION = "step"
FITS, DOES_NOT = 0, 1


@dataclass(frozen=True)
class Request:
    """The options that say what is compiled, as they were given."""

    file: str
    topology: str
    mesh: str | None
    batch: int | None
    remat: bool
    dtype: str | None


class Described:
    """The user's step, anew for each mesh and batch."""

    def __init__(self, request: Request, search: bool = False):
        self.request, self.search = request, search
        self.function = load_function(request.file, FUNCTION)

    def description(self, remat: bool) -> Description:
        """What the user's function returns, which gets what it takes of our options."""
        options = {"dtype": self.request.dtype, "remat": remat}
        # A search decides on remat, whatever the function's default is; else what is not given is left to it.
        decided = {name for name, value in options.items() if value} | ({"remat"} if self.search else set())
        given = {name: options[name] for name in decided if name in self.function.takes}
        value = self.function(**given)
        return self._naming(lambda: Description.of(value))

    def step(self, candidate: Candidate, mesh: Any) -> AbstractStep:
        """Its step on a mesh."""
        described = self.description(candidate.remat)
        remat = candidate.remat and "remat" not in self.function.takes
        rows = candidate.rows or None
        return self._naming(lambda: abstract_step(described, mesh, rows, self.request.dtype, remat))

    def sizing(self, step: AbstractStep, devices: Target) -> Sizing:
        """What the step takes."""
        return self._naming(lambda: compile_step(step, devices))

    def _naming(self, action: Any) -> Any:
        """The value of `action`; an error names the function, or the line of the file that raised it."""

        def checked() -> tuple[Any, ValueError | None]:
            try:
                return action(), None
            except ValueError as error:
                return None, error

        value, error = self.function.running("while it was traced", checked)
        if error is not None:
            raise ValueError(f"{self.function.name}: {error}") from error
        return value


def run(request: Request, *, search: bool, tries: int, depth: int, json: Path | None) -> int:
    """Compile, print and write; 0 if it fits."""
    devices = target(request.topology)
    described = Described(request, search)
    console = terminal()
    with progress_on(console) as progress:
        progress("compiling", request.topology)
        if search:
            found = _candidates(devices, described)
            console.print(f"{devices.name}: {len(found)} candidates; at most {tries} are compiled")

            def tell(tried: Tried) -> None:
                console.print(f"  {tried.candidate}: {_told(tried)}", markup=False)

            tried = try_all(devices, found, described.step, tries, tell, described.sizing)
            text, fits = _ranking(tried, depth), tried[0].fits
            report: Any = [_as_json(each) for each in tried]
        else:
            mesh = make_mesh(request.mesh or {"fsdp": -1}, devices.devices)
            step = described.step(Candidate({}, request.batch or 0, request.remat), mesh)
            sizing = described.sizing(step, devices)
            text, fits, report = sizing_text(sizing, depth), sizing.memory.fits, sizing.to_json()
    console.print(text, markup=False)
    if json is not None:
        write_texts({json: json_text.dumps(report, indent=1) + "\n"})
        tell_written(console, [json])
    return FITS if fits else DOES_NOT


def _candidates(devices: Target, described: Described) -> list[Candidate]:
    """What is tried: what was asked for is kept, the rest varies."""
    request, count = described.request, len(devices.devices)
    mesh = make_mesh(request.mesh or {"fsdp": -1}, devices.devices)
    sizes = [request.batch] if request.batch is not None else []
    if not sizes:
        inputs = jax.tree.leaves(batch_of(described.description(False).inputs, None, mesh))
        rows = max((leaf.shape[0] for leaf in inputs if leaf.shape), default=count)
        sizes = [rows, 2 * rows, 4 * rows]
    given = {axis: size for axis, size in mesh.shape.items() if size > 1}
    ways = [*meshes(count)] if request.mesh is None else [given]
    found = candidates(ways, sizes, [True] if request.remat else [False, True])
    if not found:
        raise ValueError(
            f"no mesh of {count} devices divides a batch of {sizes[0]} rows; give --batch another"
        )
    return found


def _told(tried: Tried) -> str:
    if tried.sizing is None:
        return tried.reason
    told = verdict(tried.sizing)
    if not tried.fits:
        return told
    return f"{told}; {rate(tried.sizing)} at best"


def _ranking(tried: list[Tried], depth: int) -> str:
    """What fits, the best first, and all about the best."""
    fitting = [each for each in tried if each.fits]
    if not fitting:
        return "\nnothing that was tried fits"
    lines = [f"{place:>3}. {each.candidate}: {_told(each)}" for place, each in enumerate(fitting, 1)]
    best = fitting[0].sizing
    assert best is not None
    return "\n".join(["", "what fits, the fastest first", *lines, "", sizing_text(best, depth)])


def _as_json(tried: Tried) -> dict[str, Any]:
    found = None if tried.sizing is None else tried.sizing.to_json()
    return {**vars(tried.candidate), "fits": tried.fits, "reason": tried.reason, "sizing": found}
