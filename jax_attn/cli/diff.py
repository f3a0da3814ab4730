"""`jax-attn diff`: compare somebody's port with its original, and say where and why they differ."""

import json as json_text
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jax_attn.cli.files import require_writable
from jax_attn.cli.user_file import load_port
from jax_attn.parity import bounds
from jax_attn.parity.against import (
    RecordedLaneRun,
    carry_recorded,
    compare_with_trace,
    recorded_sides,
    trace_against,
)
from jax_attn.parity.compare import SMALL, carry_weights, compare_cases
from jax_attn.parity.diagnose import Diagnosis, diagnose
from jax_attn.parity.error_maps import error_maps
from jax_attn.parity.junit import junit as junit_text
from jax_attn.parity.lane_run import LaneRun, Sides
from jax_attn.parity.lanes import LANES
from jax_attn.parity.lint_optimizer import Finding, lint_optimizer
from jax_attn.parity.locate import trace_modules
from jax_attn.parity.page import page
from jax_attn.parity.port import Port
from jax_attn.parity.report import Report
from jax_attn.parity.trace_files import TorchTrace
from jax_attn.parity.training import TRAINING_LANES, compare_training
from jax_attn.parity.training_report import TrainingReport

Lane = Literal["float64", "float32", "bfloat16", "dropout"]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Findings:
    """What one command found."""

    report: Report
    training: TrainingReport | None = None
    diagnosis: Diagnosis | None = None
    optimizer: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all of it passed."""
        return self.report.passed and (self.training is None or self.training.passed)

    @property
    def why(self) -> str:
        """The causes that were found, of either difference."""
        parts = ["" if self.diagnosis is None else str(self.diagnosis), self.why_training]
        return "\n\n".join(part for part in parts if part)

    @property
    def why_training(self) -> str:
        """The optimizers' settings that differ."""
        return "\n".join(f"the optimizers' settings differ: {finding}" for finding in self.optimizer)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        trace = self.report.trace
        return {
            "passed": self.passed,
            "report": self.report.to_json(),
            "trace": None if trace is None else trace.to_json(),
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_json(),
            "optimizer": [str(finding) for finding in self.optimizer],
            "training": None if self.training is None else self.training.to_json(),
        }


def diff(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py[:function]")],
    /,
    lanes: tuple[Lane, ...] = LANES,
    train: bool = False,
    against: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    json: File = None,
    junit: File = None,
    html: File = None,
) -> int:
    """Compare a port with its original: outputs and every gradient, in every lane.

    The function (by default `pair`) takes no arguments and returns (flax module, torch module, inputs), or a
    dict with "flax", "torch", "inputs" and whatever else `jax_attn.parity.port.Port` knows: "kwargs", "names"
    for weights that are called otherwise, "call_flax" and "call_torch" for modules that are called otherwise.

    Both sides get torch's weights. Where they differ, the first submodule that does something else is told,
    and which known fault explains it.
    The exit status is 0 if everything agrees, 1 if anything differs, and 2 if there is nothing to compare.

    Args:
        file: the Python file, and the function in it.
        lanes: the lanes to run.
        train: compare trainings too; the function also returns "batches", "losses" and "optimizers".
        against: compare with what `jax-attn trace` recorded there; the function may then lack inputs.
        json: write everything that was measured to this file.
        junit: write a test case for each tensor and lane to this file, as JUnit has it.
        html: write a page to read to this file.
    """
    for path in (json, junit, html):
        require_writable(path)
    if train and against is not None:
        raise ValueError("--train needs torch; it cannot be combined with --against")
    recorded = None if against is None else TorchTrace.load(against)
    port = load_port(file, *(("flax", "torch") if recorded is None else ("flax",)))
    port = replace(port, title=port.title or Path(file).name)
    console = Console(highlight=False, soft_wrap=True)
    with progress_on(console) as progress:
        if train:
            require_training(port, lanes)
        report = compared(port, recorded, lanes, progress)
        training = trained(port, lanes, progress) if train else None
        diagnosis = None
        if report.first_divergence is not None and recorded is None:
            diagnosis = diagnosed(port, report, progress)
        optimizer = () if training is None or training.passed else optimizer_settings(port)
    findings = Findings(report, training, diagnosis, optimizer)
    show(console, findings)
    if json is not None:
        text = json_text.dumps(findings.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        json.write_text(text + "\n", encoding="utf-8")
    if html is not None:
        html.write_text(page_of(port, recorded, findings), encoding="utf-8")
    if junit is not None:
        junit.write_text(junit_text(report, training), encoding="utf-8")
    return 0 if findings.passed else 1


def compared(port: Port, recorded: TorchTrace | None, lanes: Sequence[str], progress: Progress) -> Report:
    """Outputs and gradients, against torch or what was recorded of it."""
    options: dict[str, Any] = {
        "lanes": lanes,
        "names": port.names,
        "whole_model": port.whole_model,
        "call_flax": port.call_flax,
        "title": port.title,
        "progress": progress,
        "trace": True,
        "modules": port.modules,
    }
    options["weights"] = port.weights
    if recorded is not None:
        return compare_with_trace(port.flax, recorded, **options)
    options |= {"call_torch": port.call_torch, "seed": port.seed}
    return compare_cases(port.flax, port.torch, [port.case], **options)


def diagnosed(port: Port, report: Report, progress: Progress) -> Diagnosis:
    """Why they differ."""
    return diagnose(
        port.flax,
        port.torch,
        *port.case.args,
        report=report,
        kwargs=port.case.kwargs,
        weights=port.weights,
        names=port.names,
        modules=port.modules,
        call_flax=port.call_flax,
        call_torch=port.call_torch,
        seed=port.seed,
        progress=lambda what: progress("why", what),
    )


def optimizer_settings(port: Port) -> tuple[Finding, ...]:
    """The settings of the optimizers that differ, where they are of a kind that can be looked into."""
    try:
        return tuple(lint_optimizer(*port.optimizers, clip=port.clip))
    except ValueError:  # an optimizer with several groups
        return ()


def page_of(port: Port, recorded: TorchTrace | None, findings: Findings) -> str:
    """The page: for it the worst tensors are computed once more, and modules that agree are traced."""
    report = findings.report
    if recorded is not None:
        case = recorded.case
        carried = carry_recorded(port.flax, recorded, port.weights, port.names)
        sides = recorded_sides(carried, recorded, port.names, port.whole_model, port.call_flax)
        report.trace = report.trace or trace_against(port.flax, recorded, sides, port.modules)
        maps = error_maps(partial(RecordedLaneRun, sides, recorded=recorded), case, report)
        return page(report, maps=maps)
    case = port.case
    options: dict[str, Any] = {
        "names": port.names,
        "call_flax": port.call_flax,
        "call_torch": port.call_torch,
        "seed": port.seed,
    }
    if report.trace is None:
        weights: dict[str, Any] = {"weights": port.weights, "modules": port.modules}
        report.trace = trace_modules(
            port.flax, port.torch, *case.args, kwargs=case.kwargs, **weights, **options
        )
    bound = bounds.WHOLE_MODEL if port.whole_model else bounds.MODULE
    flax, torch = carry_weights(port.flax, port.torch, port.weights, port.names)
    sides = Sides(flax, torch, bound=bound, quick=report.parameters <= SMALL, **options)
    maps = error_maps(partial(LaneRun, sides), case, report)
    return page(report, maps=maps, training=findings.training, diagnosis=findings.why)


def require_training(port: Port, lanes: Sequence[str]) -> None:
    """A ValueError if the port cannot be trained in these lanes."""
    for name in ("batches", "losses", "optimizers"):
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
        port.losses,
        port.optimizers,
        port.steps,
        names=port.names,
        clip=port.clip,
        whole_model=port.whole_model,
        seed=port.seed,
        lanes=[lane for lane in TRAINING_LANES if lane in lanes],
        title=f"{port.title}, training",
        progress=progress,
    )


def show(console: Console, findings: Findings) -> None:
    """The table, then where, then why."""

    def tell(text: object) -> None:
        console.print(f"{text}\n", markup=False)

    report = findings.report
    tell(replace(report, first_divergence=None))
    if report.first_divergence is not None:
        tell(report.first_divergence)
    if findings.diagnosis is not None:
        tell(findings.diagnosis)
    if findings.training is not None:
        tell(findings.training)
    if findings.optimizer:
        tell(findings.why_training)


@contextmanager
def progress_on(console: Console) -> Generator[Progress]:
    """On a terminal, a line that says what is being done; in a pipe nothing."""
    if not console.is_terminal:
        yield lambda lane, what: None
        return
    with console.status("starting") as status:
        yield lambda lane, what: status.update(": ".join(part for part in (lane, what) if part))
