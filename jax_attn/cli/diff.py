"""`jax-attn diff`: compare somebody's port with its original, and say where and why they differ."""

import json as json_text
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jax_attn.cli.files import require_outputs, write_texts
from jax_attn.cli.findings import DIFFERS, Findings
from jax_attn.cli.terminal import progress_on, tell_written, terminal
from jax_attn.cli.user_file import load_port
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.diagnosing.diagnose import diagnose
from jax_attn.parity.diagnosing.lint_modules import lint_pair
from jax_attn.parity.judging.lane_run import LaneRun
from jax_attn.parity.lanes import LANES, lanes_named
from jax_attn.parity.pages.error_maps import error_maps
from jax_attn.parity.pages.junit import junit as junit_text
from jax_attn.parity.pages.page import page
from jax_attn.parity.port import Port
from jax_attn.parity.recorded.against import (
    RecordedLaneRun,
    compare_with_trace,
    recorded_sides,
    trace_against,
)
from jax_attn.parity.recorded.files import JSON, TENSORS, TorchTrace
from jax_attn.parity.report import Report
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.parity.training.compare import TRAINING_LANES, compare_training
from jax_attn.parity.training.report import TrainingReport
from jax_attn.weights.errors import NamesError

Lane = Literal["float64", "float32", "bfloat16", "dropout"]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Progress = Callable[[str, str], None]

UNDIAGNOSED = "no cause was looked for: that takes torch, into which known mutations are injected"
WHERE_NAMES_GO = 'return them beside the modules: {"flax": ..., "torch": ..., "inputs": ..., "names": [...]}'


def diff(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py[:function]")],
    /,
    lanes: tuple[Lane, ...] = LANES,
    train: bool = False,
    against: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    json: File = None,
    junit: File = None,
    html: File = None,
    verbose: bool = False,
) -> int:
    """Compare a port with its original: outputs and every gradient, in every lane.

    FILE.py has a function, by default `pair`, that takes no arguments and returns both modules and the
    inputs of a call:

        import numpy as np, torch
        from flax import nnx

        def pair():
            flax = nnx.LayerNorm(8, rngs=nnx.Rngs(0))
            original = torch.nn.LayerNorm(8)
            x = np.random.default_rng(0).standard_normal((2, 5, 8))
            return flax, original, (x,)

        def more():
            flax, original, inputs = pair()
            return {"flax": flax, "torch": original, "inputs": inputs, "title": "my norm"}

    `jax-attn diff FILE.py` compares what `pair` returns, `jax-attn diff FILE.py:more` what `more` does.
    A dict may also have

        kwargs       keyword arguments of the call
        names        [(pattern, replacement), ...] turn Flax's names of weights into torch's
        modules      {"flax path": "torch path", ...}, where the weights do not tell which belong together
        weights      "torch" (both get torch's), "flax" (both get Flax's), or None (each keeps its own)
        call_flax    function of (module, *inputs, **kwargs), where it is not module(*inputs, **kwargs)
        call_torch   the same for torch
        whole_model  True for a whole model: its bound in float64 is 1e-10 in place of 1e-12
        seed, title  of all that is random; of the report

    and for --train

        batches      [(x, y), ...]: tuples or dicts of arrays
        loss         (flax_loss, torch_loss), each a function of (module, *batch)
        optimizer    (optax.sgd(0.1), lambda parameters: torch.optim.SGD(parameters, 0.1))
        clip, steps  a pair as optimizer is, of clippings; how many steps
        training     False for evaluation mode, which leaves dropout and running statistics out

    First comes where the two begin to differ, the first submodule that does something else, and why, which
    known mistake explains it; then the tensors that are worst.

        jax-attn diff port.py --lanes float64            in one lane, which is the quickest
        jax-attn diff port.py --train --html page.html   trainings as well, and a page to read
        jax-attn diff port.py --against run              where there is no torch; see `jax-attn trace`

    The exit status is 0 if everything agrees, 1 if anything differs, and 2 if there was nothing to compare or
    something is wrong with what was given.

    Args:
        file: the Python file, and the function in it.
        lanes: the lanes to run: what is computed in; "dropout" is float64 with the same dropout masks.
        train: compare trainings too.
        against: compare with what `jax-attn trace` recorded there, on the recorded inputs; torch is not needed,
            and the function returns the Flax module alone, or a dict without torch.
        json: write everything that was measured to this file.
        junit: write a test case for each tensor and lane to this file, as JUnit has it.
        html: write a page to read to this file.
        verbose: list every tensor and every step, rather than the worst.
    """
    source = Path(file if Path(file).exists() else file.rpartition(":")[0])
    recording = [] if against is None else [against / name for name in (JSON, TENSORS)]
    require_outputs({"--json": json, "--junit": junit, "--html": html}, [source, *recording])
    if train and against is not None:
        raise ValueError("--train needs torch; it cannot be combined with --against")
    recorded = None if against is None else TorchTrace.load(against)
    port = load_port(file, *(("flax", "torch") if recorded is None else ("flax",)))
    title = Path(file).name if against is None else f"{Path(file).name} on the inputs of {against}"
    port = replace(port, title=port.title or title)
    console = terminal()
    if train:
        require_training(port, lanes)
    with progress_on(console) as progress:
        findings = found(port, recorded, lanes, train, progress)
        texts: dict[Path, str] = {}
        if json is not None:
            text = json_text.dumps(findings.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
            texts[json] = text + "\n"
        if html is not None:
            texts[html] = page_of(port, recorded, findings)
        if junit is not None:
            texts[junit] = junit_text(findings.report, findings.training, findings.remarks)
        write_texts(texts)
    console.print(findings.text(verbose), markup=False)
    tell_written(console, texts)
    return findings.status


def found(
    port: Port, recorded: TorchTrace | None, lanes: Sequence[str], train: bool, progress: Progress
) -> Findings:
    """Everything that is to be found."""
    report = compared(port, recorded, lanes, progress)
    training = trained(port, lanes, progress) if train else None
    differs = report.first_divergence is not None and Findings(report).status == DIFFERS
    if differs and recorded is None:
        diagnose(report, progress=lambda what: progress("why", what))
    return Findings(
        report,
        training,
        UNDIAGNOSED if differs and recorded is not None else "",
        () if recorded is not None else tuple(lint_pair(port.flax, port.torch, port.names, port.modules)),
    )


def compared(port: Port, recorded: TorchTrace | None, lanes: Sequence[str], progress: Progress) -> Report:
    """Outputs and gradients, against torch or what was recorded of it."""
    names = ["names", "whole_model", "call_flax", "title", "modules", "weights"]
    names += ["call_torch", "seed"] if recorded is None else []
    options: dict[str, Any] = {name: getattr(port, name) for name in names}
    options |= {"lanes": lanes, "progress": progress}
    try:
        if recorded is not None:
            return compare_with_trace(port.flax, recorded, **options)
        return compare_cases(port.flax, port.torch, [port.case], **options)
    except NamesError as error:
        raise ValueError(f"{error}; {WHERE_NAMES_GO}") from error


def page_of(port: Port, recorded: TorchTrace | None, findings: Findings) -> str:
    """The page: for it the worst tensors are computed once more, and modules that agree are traced."""
    report = findings.report
    if recorded is not None:
        options = {name: getattr(port, name) for name in ("weights", "names", "modules", "call_flax")}
        sides, _ = recorded_sides(port.flax, recorded, whole_model=port.whole_model, **options)
        report.trace = report.trace or trace_against(recorded, sides)
        maps = error_maps(partial(RecordedLaneRun, sides, recorded=recorded), recorded.case, report)
        return page(report, maps=maps, remarks=findings.remarks)
    sides, _ = report.compared.carry()
    if report.trace is None:
        report.trace = Tracer(sides, lanes_named(["float64"])[0]).trace(port.case)
    return page(
        report,
        maps=error_maps(partial(LaneRun, sides), port.case, report),
        training=findings.training,
        remarks=findings.remarks,
    )


def require_training(port: Port, lanes: Sequence[str]) -> None:
    """A ValueError if the port cannot be trained in these lanes."""
    for name in ("batches", "loss", "optimizer"):
        if getattr(port, name) is None:
            raise ValueError(f'--train needs "{name}", and {port.title} returned none')
    if not set(lanes) & set(TRAINING_LANES):
        raise ValueError(
            f"--train runs in the lanes {', '.join(TRAINING_LANES)}, and --lanes has neither of them"
        )


def trained(port: Port, lanes: Sequence[str], progress: Progress) -> TrainingReport:
    """Two trainings."""
    return compare_training(
        port.flax,
        port.torch,
        port.batches,
        port.loss,
        port.optimizer,
        port.steps,
        names=port.names,
        clip=port.clip,
        training=port.training,
        whole_model=port.whole_model,
        seed=port.seed,
        lanes=[lane for lane in TRAINING_LANES if lane in lanes],
        title=f"{port.title}, training",
        progress=progress,
    )
