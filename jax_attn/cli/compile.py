"""`jax-attn compile`: does a training step fit, and what does it take, on devices that are not there?"""

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from jax_attn.cli.files import require_outputs, write_texts
from jax_attn.cli.terminal import progress_on, tell_written, terminal
from jax_attn.cli.user_file import load_function
from jax_attn.training.mesh import make_mesh
from jax_attn.training.sizing.compile import compile_step
from jax_attn.training.sizing.search import Candidate, Tried, candidates, meshes
from jax_attn.training.sizing.search import search as try_all
from jax_attn.training.sizing.step import AbstractStep, Description, abstract_step, batch_of
from jax_attn.training.sizing.target import Target, target
from jax_attn.training.sizing.text import sizing_text, verdict

FUNCTION = "step"
FITS, DOES_NOT = 0, 1
Dtype = Literal["bfloat16", "float16", "float32"]


def compile_(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py[:function]")],
    /,
    topology: Annotated[str, tyro.conf.arg(metavar="KIND:SIZE")],
    mesh: Annotated[str | None, tyro.conf.arg(metavar="AXIS=N,...")] = None,
    batch: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None,
    remat: bool = False,
    dtype: Dtype | None = None,
    search: bool = False,
    tries: int = 8,
    depth: int = 6,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> int:
    """Compile a training step for devices that are not there: does it fit, and what does it take?

    FILE.py has a function, by default `step`, that returns what a step is made of. The model may be any Flax NNX
    module, the optimizer any of optax; no array is made.

        import jax, jax.numpy as jnp, optax
        from flax import nnx

        def step():
            def loss(model, batch):                      # the mean loss, or a tuple of (sum, how many)
                logits = model(batch["ids"][:, :-1])
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["ids"][:, 1:])
                return losses.sum(), losses.size

            return {
                "model": lambda: MyModel(rngs=nnx.Rngs(0)),                   # traced: nothing is drawn
                "optimizer": optax.adamw(1e-3),
                "inputs": lambda rows: {"ids": jnp.zeros((rows, 2049), jnp.int32)},    # or a batch itself
                "loss": loss,
            }

    It may also return `accumulate`, `max_grad_norm` and `ema`, as `jax_attn.training.Trainer` takes them. If it
    takes arguments called `dtype` or `remat`, it gets those that are given here.

        jax-attn compile model.py --topology v5e:16x16 --mesh fsdp=256
        jax-attn compile model.py --topology v5p:4x4x4 --mesh fsdp=16,tensor=4 --batch 256 --dtype bfloat16
        jax-attn compile model.py --topology h100:8 --json h100.json
        jax-attn compile model.py --topology v5e:4x4 --search

    Topologies are those of TPUs, v4, v5e, v5p, v6e and tpu7x, compiled by the TPU's own compiler (pip install
    libtpu); GPUs, a100, h100, h200 and b200, for which the program is lowered and memory is an estimate; and
    cpu:N, N simulated devices. First comes what a device holds, then the FLOPs by module (loops counted as often
    as they run), what the devices send to each other, and how long a step takes at least.

    The exit status is 0 if it fits, 1 if it does not, and 2 if something is wrong with what was given.

    Args:
        file: the Python file, and the function in it.
        topology: the devices, as v5e:16x16, v5p:4x4x4, h100:8.
        mesh: how they share the work, as fsdp=256 or data=4,fsdp=32,tensor=2; axes are data, fsdp, tensor and
            context, -1 is what is left. By default fsdp alone.
        batch: rows of a batch, on all devices together; by default those of `inputs`, or one for each device among
            which the mesh deals it out.
        remat: compute layers again in the backward pass, in place of keeping what is inside them.
        dtype: what modules compute in that have a dtype; by default as they are.
        search: try meshes, batches and remat, and rank what fits by tokens a second. What is given here is kept.
        tries: how many the search compiles at most.
        depth: how many parts of a module's path are told apart in the list of FLOPs.
        json: write everything that was found to this file.
    """
    source = Path(file if Path(file).exists() else file.rpartition(":")[0])
    require_outputs({"--json": json}, [source])
    for name, value in (("--batch", batch), ("--tries", tries), ("--depth", depth)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    devices = target(topology)
    described = _reader(file, dtype)
    console = terminal()

    def step_of(candidate: Candidate, on: Any) -> AbstractStep:
        made, layers_again = described(candidate.remat)
        try:
            return abstract_step(made, on, candidate.rows or None, dtype, layers_again)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    with progress_on(console) as progress:
        if search:
            found = _candidates(devices, described, mesh, batch, remat)
            console.print(f"{devices.name}: {len(found)} candidates, of which {tries} are compiled at most")

            def tell(tried: Tried) -> None:
                console.print(f"  {tried.candidate}: {_told(tried)}", markup=False)

            progress("searching", topology)
            tried = try_all(devices, found, step_of, tries, tell)
            text, fits = _ranking(tried, depth), tried[0].fits
            report: Any = [_as_json(each) for each in tried]
        else:
            on = make_mesh(mesh or {"fsdp": -1}, devices.devices)
            step = step_of(Candidate({}, batch or 0, remat), on)
            progress("compiling", topology)
            sizing = compile_step(step, devices)
            text, fits, report = sizing_text(sizing, depth), sizing.memory.fits, sizing.to_json()
    console.print(text, markup=False)
    if json is not None:
        write_texts({json: json_text.dumps(report, indent=1) + "\n"})
        tell_written(console, [json])
    return FITS if fits else DOES_NOT


def _reader(file: str, dtype: str | None) -> Callable[[bool], tuple[Description, bool]]:
    """A function of `remat`: what the user's function describes, and whether remat is still to be set."""
    function = load_function(file, FUNCTION)

    def described(remat: bool) -> tuple[Description, bool]:
        options = {"dtype": dtype, "remat": remat}
        value = function(
            **{name: option for name, option in options.items() if name in function.takes and option}
        )
        try:
            return Description.of(value), remat and "remat" not in function.takes
        except ValueError as error:
            raise ValueError(f"{function.name}: {error}") from error

    return described


def _candidates(
    devices: Target,
    described: Callable[[bool], tuple[Description, bool]],
    mesh: str | None,
    batch: int | None,
    remat: bool,
) -> list[Candidate]:
    """What is tried: what was asked for is kept, the rest varies."""
    count = len(devices.devices)
    on = make_mesh(mesh or {"fsdp": -1}, devices.devices)
    if batch is None:
        inputs = jax.tree.leaves(batch_of(described(False)[0].inputs, None, on))
        rows = max((leaf.shape[0] for leaf in inputs if leaf.shape), default=count)
    sizes = [rows, 2 * rows, 4 * rows] if batch is None else [batch]
    given = {axis: size for axis, size in on.shape.items() if size > 1}
    found = candidates([given] if mesh else [*meshes(count)], sizes, [True] if remat else [False, True])
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
    return f"{told}; {tried.sizing.tokens_per_second:,.0f} tokens a second at best"


def _ranking(tried: list[Tried], depth: int) -> str:
    """What fits, the best first, and all about the best."""
    fitting = [each for each in tried if each.fits]
    if not fitting:
        return "\nnothing that was tried fits"
    lines = [f"{place:>3}. {each.candidate}: {_told(each)}" for place, each in enumerate(fitting, 1)]
    best = fitting[0].sizing
    assert best is not None
    return "\n".join(["", "what fits, by tokens a second at best", *lines, "", sizing_text(best, depth)])


def _as_json(tried: Tried) -> dict[str, Any]:
    found = None if tried.sizing is None else tried.sizing.to_json()
    return {**vars(tried.candidate), "fits": tried.fits, "reason": tried.reason, "sizing": found}
