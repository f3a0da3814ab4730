"""Why two modules differ: the known fault that, planted into torch, makes it do what Flax does.

Whichever side is wrong, the fault that turns torch's numbers into Flax's says what differs, and both values.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity import bounds
from jax_attn.parity.calls import Call
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import Weights, carry_weights
from jax_attn.parity.differences import match_outputs, worst
from jax_attn.parity.divergence import Divergence
from jax_attn.parity.dropout import Tape
from jax_attn.parity.faults import FAULTS, Fault, Planted, eps_fault, plant
from jax_attn.parity.faults.weights import variants
from jax_attn.parity.flax_side import has_dropout
from jax_attn.parity.lane_run import Sides
from jax_attn.parity.lanes import Lane, lanes_named
from jax_attn.parity.lint_modules import SettingFinding, lint_pair
from jax_attn.parity.module_pairs import ModuleNames
from jax_attn.parity.observers import Observer
from jax_attn.parity.power import PlantedRun, results_of
from jax_attn.parity.recording import CallRecord, Recording
from jax_attn.parity.recording_flax import FlaxRecorder
from jax_attn.parity.recording_torch import TorchRecorder
from jax_attn.parity.report import Report, table
from jax_attn.parity.search import find
from jax_attn.parity.trace import Progress, Tracer
from jax_attn.parity.wrapping import first_paths
from jax_attn.weights.rules import Names

# What brings the error down by less is no likely cause.
LIKELY = 1e-2


@dataclass(frozen=True)
class Candidate:
    """A fault that was tried as the cause.

    Attributes:
        fault: its name in `faults.FAULTS`; empty for a setting that was not tried, but read.
        summary: what it is.
        setting: what differs by it.
        flax: what Flax does, if this is the cause.
        torch: what torch does.
        error: the error that is left with it in torch; NaN where there is no number.
        explains: whether that is within the bound.
    """

    fault: str
    summary: str
    setting: str
    flax: str
    torch: str
    error: float
    explains: bool

    def __str__(self) -> str:
        return f"{self.setting}: flax {self.flax}, torch {self.torch}"


@dataclass
class Diagnosis:
    """Where two modules begin to differ, and why.

    Attributes:
        certainty: "certain": one cause, and no other, leaves an error within the bound; "likely": several
            do, or the error falls a hundredfold; "unknown"; or "no difference".
        cause: the likeliest; None if it is not known.
        divergence: where they begin to differ.
        error: the error there, without any repair.
        bound: the bound of that error.
        candidates: all that were tried, the best first.
        lint: settings of paired modules that differ, found without running them.
        seconds: the time it took.
    """

    certainty: str
    cause: Candidate | None = None
    divergence: Divergence | None = None
    error: float = math.nan
    bound: float = bounds.MODULE
    candidates: list[Candidate] = field(default_factory=list)
    lint: list[SettingFinding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def likely(self) -> list[Candidate]:
        """The candidates that come into question."""
        good = [candidate for candidate in self.candidates if candidate.explains]
        return good or ([self.cause] if self.cause else [])

    @property
    def tried(self) -> str:
        """All that was tried, as a table."""
        rows = [["fault", "error left", "flax", "torch"]]
        rows += [[c.fault, f"{c.error:.2g}", c.flax, c.torch] for c in self.candidates]
        return table(rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, in the types of JSON."""
        return {
            "certainty": self.certainty,
            "cause": None if self.cause is None else _plain(vars(self.cause)),
            "error": _plain({"error": self.error})["error"],
            "bound": self.bound,
            "divergence": None if self.divergence is None else self.divergence.to_json(),
            "candidates": [_plain(vars(candidate)) for candidate in self.candidates],
            "lint": [{**vars(f), "flax": str(f.flax), "torch": str(f.torch)} for f in self.lint],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        where = ""
        if self.divergence is not None:
            where = f" in {self.divergence.flax_path or 'the module itself'} ({self.divergence.flax_class})"
        if self.certainty == "no difference":
            yield "nothing differs on these inputs"
        elif self.cause is None:
            yield f"cause unknown{where}: none of the {len(self.candidates)} faults tried explains it"
        else:
            yield f"cause, {self.certainty}{where}: {self.cause}"
            left = f"; with the same in torch the error falls from {self.error:.2g} to {self.cause.error:.2g}"
            yield f"  {self.cause.summary}{left if self.cause.fault else ''}"
        others = [candidate for candidate in self.likely if candidate is not self.cause]
        for other in others:
            yield f"  or: {other}"
        for finding in self.lint:
            yield f"  settings differ: {finding}"


def diagnose(
    flax_module: nnx.Module,
    torch_module: Any,
    *inputs: Any,
    report: Report | None = None,
    divergence: Divergence | None = None,
    kwargs: Mapping[str, Any] | None = None,
    weights: Weights = "torch",
    names: Names = (),
    modules: ModuleNames | None = None,
    call_flax: Callable[..., Any] | None = None,
    call_torch: Callable[..., Any] | None = None,
    faults: Sequence[Fault] | None = None,
    seed: int = 0,
    progress: Progress = lambda what: None,
) -> Diagnosis:
    """Find the submodule at which two modules begin to differ, and which known fault explains it.

    Each fault that fits the submodule is planted into a copy of torch's, and torch runs again. If its output
    then is Flax's, within the bound, that fault is what differs.

    >>> print(diagnose(flax_model, torch_model, x))  # doctest: +SKIP
    cause, certain in norm (LayerNorm): eps: flax 1e-06, torch 1e-05

    Args:
        flax_module: any NNX module.
        torch_module: its counterpart; neither is changed.
        inputs: positional arguments of a call; arrays in NumPy.
        report: of a comparison of the two; its first divergence is taken.
        divergence: where they begin to differ, if that is known already.
        kwargs: keyword arguments of the call.
        weights: whose weights both sides get; None leaves each its own.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`.
        modules: submodules that belong together where the weights do not tell; see `trace_modules`.
        call_flax: in place of calling the Flax module.
        call_torch: in place of calling the torch module.
        faults: what may be the cause; None is all that are known.
        seed: of cotangents and dropout masks.
        progress: called with what is done next.

    Raises:
        StateDictError: the weights of one side do not fit the other.
    """
    started = time.perf_counter()
    flax, torch = carry_weights(flax_module, torch_module, weights, names)
    sides = Sides(flax, torch, names, bounds.MODULE, call_flax, call_torch, seed, True)
    case = Case("", inputs, dict(kwargs or {}))
    lint = lint_pair(flax_module, torch_module, names, modules)
    divergence = divergence or (report.first_divergence if report is not None else None)
    found = Diagnosis("no difference", lint=lint)
    for lane in lanes_named(["float64", "dropout"]):
        if lane.training and not (has_dropout(flax) or _drops(torch)):
            continue
        where = divergence or find(
            Tracer.of(sides, lane, modules, flax_module).trace(case, progress=progress)
        )
        if where is None:
            continue
        trial = (_Backward if where.direction == "backward" else _Forward)(sides, lane, case, where)
        if trial.error <= trial.bound:  # it was found in the other lane, or is not to be seen again
            continue
        found = _diagnosis(trial, where, lint, list(_candidates(trial, where, faults, progress)))
        break
    found.seconds = time.perf_counter() - started
    return found


def _drops(torch: Any) -> bool:
    return any("dropout" in type(child).__name__.lower() for child in torch.modules())


# A trial tells the error that is left with a fault in torch.


class _Forward:
    """The outputs of the call at fault: Flax's stay, torch's are made again with each candidate."""

    def __init__(self, sides: Sides, lane: Lane, case: Case, divergence: Divergence):
        self.sides = sides
        self.lane = lane
        self.divergence = divergence
        self.call = Call.of(case).cast(lane)
        self.bound = divergence.bound if divergence.bound > 0 else sides.bound
        torch, tape = self._run(sides.torch)
        recorder = FlaxRecorder(sides.flax, lane, sides.names, sides.call_flax, first_paths(sides.flax))
        keep = _Keep(divergence.flax_path, divergence.call - 1)
        self.recording = recorder.record(self.call, keep, tape=tape)
        whole = divergence.flax_class == "the call"  # what is done with the module's output
        self.flax = self.recording.whole if whole or keep.kept is None else keep.kept
        self.error = self._error(torch)

    def of(self, planted: Planted) -> float:
        """The error with a fault in torch."""
        try:
            return self._error(self._run(planted.module)[0])
        except Exception:  # a fault that does not fit after all
            return math.nan

    def _run(self, module: Any) -> tuple[Recording, Tape | None]:
        tape = Tape(self.sides.seed) if self.lane.training else None
        recorder = TorchRecorder(module, self.lane, self.sides.call_torch)
        return recorder.record(self.call, self.sides.seed, tape=tape), tape

    def _error(self, torch: Recording) -> float:
        path, number = self.divergence.torch_path, self.divergence.call - 1
        same = [call for call in torch.calls if call.path == path and call.number == number]
        theirs = torch.whole if self.flax is self.recording.whole or not same else same[0]
        if torch.failure is not None or self.flax.skeleton is None or theirs.skeleton is None:
            return math.nan
        matched, note = match_outputs(self.flax, theirs, self.bound)
        difference = worst(match.difference for match in matched)
        return math.nan if difference is None or note else difference.error


class _Keep(Observer):
    """Keeps the outputs of one call."""

    def __init__(self, path: str, number: int):
        self.path = path
        self.number = number
        self.kept: CallRecord | None = None

    def returned(self, call: CallRecord, value: Any) -> Any:
        """Keep it, or let go of it."""
        value = super().returned(call, value)
        if (call.path, call.number) == (self.path, self.number) and self.kept is None:
            call.outputs = [np.array(output) for output in call.outputs]
            self.kept = call
        else:
            call.forget()
        return value


class _Backward:
    """Outputs and gradients of the whole."""

    def __init__(self, sides: Sides, lane: Lane, case: Case, divergence: Divergence):
        self.run = PlantedRun(sides, lane)
        self.lane = lane
        self.cases = [case]
        self.sides = sides
        self.divergence = divergence
        self.bound = sides.bound
        self.error = self._error(self.run)

    def of(self, planted: Planted) -> float:
        """The error with a fault in torch."""
        return self._error(self.run.of(planted, self.lane))

    def _error(self, run: PlantedRun) -> float:
        errors = [result.error for result in results_of(run, self.cases)]
        return max(errors) if errors and not any(map(math.isnan, errors)) else math.nan


def _candidates(
    trial: _Forward | _Backward, where: Divergence, faults: Sequence[Fault] | None, progress: Progress
) -> Iterator[Candidate]:
    target = trial.sides.torch.get_submodule(where.torch_path)
    for fault in _fitting(trial, where, target) if faults is None else faults:
        try:
            if not fault.fits(target):
                continue
            progress(fault.name)
            planted = plant(fault, trial.sides.torch, where.torch_path, share_weights=True)
            error = trial.of(planted)
        except Exception:  # it does not fit after all
            continue
        if planted.acts.words:
            flax, torch = (", ".join(dict.fromkeys(words)) for words in zip(*planted.acts.words, strict=True))
            explains = bool(error <= trial.bound)
            yield Candidate(fault.name, fault.summary, fault.setting, flax, torch, error, explains)


def _fitting(trial: _Forward | _Backward, where: Divergence, target: Any) -> Iterator[Fault]:
    """Every known fault that shows in the trial's lane and direction."""
    backward, training = where.direction == "backward", trial.lane.training

    def matters(fault: Fault) -> bool:
        return (backward or not fault.setting.startswith("gradient")) and (
            training or fault.lane != "dropout"
        )

    yield from filter(matters, _all(trial, target))


def _all(trial: _Forward | _Backward, target: Any) -> Iterator[Fault]:
    """Every known fault, those of single weights for each of them, and the eps that Flax has."""
    single = variants(target)
    yield from (fault for fault in FAULTS.values() if fault.name not in {each.name for each in single})
    yield from single
    values = {float(eps) for _, eps in _eps_in(trial.sides.flax)}
    for value in sorted(values - {1e-5, 1e-6, 1e-12}):
        yield eps_fault(value)


def _eps_in(flax: nnx.Module) -> Iterator[tuple[Any, float]]:
    for _, node in nnx.iter_modules(flax, graph=True):
        for name in ("epsilon", "eps"):
            value = getattr(node, name, None)
            if isinstance(value, int | float):
                yield node, value


def _diagnosis(
    trial: _Forward | _Backward,
    where: Divergence,
    lint: list[SettingFinding],
    candidates: list[Candidate],
) -> Diagnosis:
    candidates.sort(key=lambda candidate: math.inf if math.isnan(candidate.error) else candidate.error)
    found = Diagnosis("unknown", None, where, trial.error, trial.bound, candidates, lint)
    good = [candidate for candidate in candidates if candidate.explains]
    if good:
        causes = {(candidate.setting, candidate.flax) for candidate in good}
        found.cause = _quoted(good, lint)
        found.certainty = "certain" if len(causes) == 1 else "likely"
    elif candidates and candidates[0].error <= LIKELY * trial.error:
        found.cause, found.certainty = candidates[0], "likely"
    else:
        dropout = [f for f in lint if f.setting.startswith("dropout")]
        here = [f for f in lint if f.flax_path == where.flax_path and f not in dropout]
        if trial.lane.training:  # what draws otherwise has no numbers to compare
            here += dropout
        if here:
            finding = here[0]
            words = str(finding.flax), str(finding.torch)
            summary = "the settings differ, as the lint has it"
            found.cause = Candidate("", summary, finding.setting, *words, math.nan, False)
            found.certainty = "likely"
    return found


def _quoted(good: list[Candidate], lint: list[SettingFinding]) -> Candidate:
    """Of several that explain it, the one whose setting differs as the modules tell."""
    told = {finding.setting for finding in lint}
    return next((candidate for candidate in good if candidate.setting in told), good[0])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


__all__ = ["Candidate", "Diagnosis", "SettingFinding", "diagnose", "lint_pair"]
