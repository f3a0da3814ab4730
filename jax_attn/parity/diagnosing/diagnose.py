"""Why two modules differ: the known mutation that, injected into torch, makes it do what Flax does.

Whichever side is wrong, the mutation that turns torch's numbers into Flax's says what differs, and both values.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.diagnosing.candidates import Tried, candidates_of, mutations_of_weights, tried_with
from jax_attn.parity.diagnosing.diagnosis import LIKELY, Candidate, Diagnosis, close
from jax_attn.parity.diagnosing.lint_modules import SettingFinding, lint_pair
from jax_attn.parity.diagnosing.second_draw import second_trial
from jax_attn.parity.diagnosing.trials import Trial, trial_of
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.mutations import Mutation
from jax_attn.parity.report import Report
from jax_attn.parity.runners.dropout import DropoutMismatch
from jax_attn.parity.runners.torch_copy import copied
from jax_attn.parity.text import word
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.recording import TOP
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Progress, Tracer
from jax_attn.parity.tracing.traced import ModuleTrace


def diagnose(
    report: Report, *, mutations: Sequence[Mutation] | None = None, progress: Progress = lambda what: None
) -> Diagnosis:
    """Find which known mutation explains the first divergence of a comparison; the report's text then says it.

    Each mutation that fits the submodule that is wrong is injected into a copy of torch's, and torch runs again. If
    its output then is Flax's, within the bound, on these inputs and on others, that mutation is what differs.

    >>> print(diagnose(compare(flax_model, torch_model, x)))  # doctest: +SKIP
    cause, certain in norm (LayerNorm): eps: flax 1e-06, torch 1e-05

    Args:
        report: what `compare` or `compare_cases` found.
        mutations: what may be the cause; None is all that are known.
        progress: called with what is done next.

    Raises:
        ValueError: the report does not hold the modules: it was read from a file, or made with a recording.
    """
    started = time.perf_counter()
    compared: Comparison | None = report.compared
    if compared is None:
        raise ValueError(
            "diagnose needs the report that compare returned: this one, read from a file or made with a "
            "recorded trace, does not hold the two modules"
        )
    lint = lint_pair(compared.flax, compared.torch, compared.names, compared.modules)
    found = Diagnosis("no difference" if report.passed else "unknown", lint=lint)
    sides, _ = compared.carry()
    sides = replace(sides, torch=copied(sides.torch, share_weights=True))
    for trace, case in () if report.passed else _traces(report, sides, progress):
        where, lane = find(trace), lanes_named([trace.lane])[0]
        if where is None:
            continue
        if where.kind == "raised":
            found.divergence, found.cause = where, _of_dropout(where, lint)
            found.certainty = "unknown" if found.cause is None else "likely"
            break
        trial = trial_of(sides, lane, case, where)
        if trial.error <= trial.bound:  # not to be seen again
            continue
        right = _right(trace, where)
        tried = list(candidates_of(trial, where, right, mutations, progress))
        if mutations is None and right and not any(candidate.explains for _, candidate in tried):
            # What is called and is right may yet be used in another way than by calling it.
            below = mutations_of_weights(trial, where, right)
            tried += candidates_of(trial, where, [], below, progress)
        second = None
        if any(_serves(candidate, trial) for _, candidate in tried):
            progress("another draw")
            second = second_trial(trial, case, lane, where)
        found = _diagnosis(trial, second, where, lint, tried)
        found.also = _also(trace, where)
        break
    found.seconds = time.perf_counter() - started
    report.diagnosis = found
    return found


def _traces(report: Report, sides: Comparison, progress: Progress) -> Iterator[tuple[ModuleTrace, Case]]:
    """The trace that the report holds; else one of each call and exact lane, until there is a divergence."""
    compared: Comparison = report.compared
    if report.trace is not None:
        yield report.trace, next(case for case in compared.cases if case.name == report.trace.case)
        return
    for lane in lanes_named(["float64", "dropout"]):
        for case in compared.cases:
            if case.runs_in(lane.name):
                yield Tracer(sides, lane).trace(case, progress=progress), case


def _place(trace: ModuleTrace, where: Divergence) -> int:
    """The call that is wrong in the trace."""
    same = [i for i, call in enumerate(trace.calls)
            if (call.flax.path, call.flax.number) == (where.flax_path, where.call - 1)]  # fmt: skip
    return TOP if where.flax_class == "the call" or not same else same[0]


def _right(trace: ModuleTrace, where: Divergence) -> list[str]:
    """Paths, below the module that is wrong, of submodules that are right on torch's inputs."""
    if where.direction == "backward":
        return []
    inside = where.torch_path
    calls = [call for _, call in trace.children(_place(trace, where))]
    wrong = {call.torch.path for call in calls if call.isolated is None or not call.isolated.agrees}
    right = {call.torch.path for call in calls} - wrong - {inside}
    return [path.removeprefix(inside).lstrip(".") for path in right if path.startswith(inside)]


def _also(trace: ModuleTrace, where: Divergence) -> list[tuple[str, float]]:
    """Further modules whose own code differs, with the error on torch's inputs, the largest first."""
    found: dict[str, float] = {}
    for call in [] if where.direction == "backward" else trace.calls:
        if call.isolated is not None and not call.isolated.agrees and call.flax.path != where.flax_path:
            found[call.flax.path] = max(call.isolated.error, found.get(call.flax.path, 0.0))
    return sorted(found.items(), key=lambda item: -item[1])


def _diagnosis(
    trial: Trial,
    second: Trial | None,
    where: Divergence,
    lint: list[SettingFinding],
    tried: list[Tried],
) -> Diagnosis:
    first = tried
    if second is not None:
        tried = [(mutation, _again(mutation, candidate, trial, second)) for mutation, candidate in tried]
    candidates = sorted((c for _, c in tried), key=lambda c: math.inf if math.isnan(c.error) else c.error)
    found = Diagnosis("unknown", None, where, trial.error, trial.bound, candidates, lint=lint)
    lost = [new for (_, new), (_, old) in zip(tried, first, strict=True)
            if _serves(old, trial) and not _serves(new, trial)]  # fmt: skip
    good = [candidate for candidate in candidates if candidate.explains]
    if good:
        causes = {(candidate.setting, candidate.flax) for candidate in good}
        found.cause = _quoted(good, lint)
        sure = second is not None and (len(causes) == 1 or _is_linted(found.cause, lint))
        found.certainty = "certain" if sure else "likely"
    elif near := close(candidates, trial.error):
        found.cause, found.certainty = _quoted(near, lint), "likely"
    else:
        found.cause = _read(trial, where, lint)
        found.certainty = "unknown" if found.cause is None else "likely"
    others = [cause for cause in dict.fromkeys(map(str, lost)) if cause != str(found.cause)]
    found.notes[:0] = [f"on these inputs it could also be, but not on others: {cause}" for cause in others]
    return found


def _serves(candidate: Candidate, trial: Trial) -> bool:
    """Whether it explains a difference, or nearly all of it."""
    return candidate.explains or candidate.error <= LIKELY * trial.error


def _again(mutation: Mutation, candidate: Candidate, first: Trial, second: Trial) -> Candidate:
    """What serves on the first draw is tried on the second."""
    if not _serves(candidate, first):
        return candidate
    try:
        [(_, again)] = tried_with(mutation, second)
    except Exception:  # the second draw does not reach it
        return replace(candidate, error=math.nan, explains=False)
    if not _serves(again, second):
        return replace(candidate, error=math.nan, explains=False)
    explains = candidate.explains and again.explains
    # Of what is left on other inputs, which are larger, the share counts.
    left = max(candidate.error, again.error if explains else again.error * first.error / second.error)
    return replace(candidate, error=left, explains=explains)


def _quoted(good: list[Candidate], lint: list[SettingFinding]) -> Candidate:
    """Of several that explain it, the one that the lint found too; or whose setting it found."""
    settings = {finding.setting for finding in lint}
    return min(good, key=lambda c: (not _is_linted(c, lint), c.setting not in settings))


def _is_linted(candidate: Candidate, lint: list[SettingFinding]) -> bool:
    """Whether the lint found the very difference."""
    return any(f.setting == candidate.setting and word(f.flax) == candidate.flax for f in lint)


def _read(trial: Trial, where: Divergence, lint: list[SettingFinding]) -> Candidate | None:
    """A setting that the lint found, where no mutation explains it."""
    dropout = [f for f in lint if f.setting.startswith("dropout")]
    here = [f for f in lint if f.flax_path == where.flax_path and f not in dropout]
    if trial.lane.training:  # what draws otherwise has no numbers to compare
        here += dropout
    return _as_cause(here)


def _of_dropout(where: Divergence, lint: list[SettingFinding]) -> Candidate | None:
    """The setting of dropout that the lint found, where a side raised because the other drops otherwise."""
    mismatch = any(DropoutMismatch.__name__ in note for note in where.notes)
    return _as_cause([f for f in lint if f.setting.startswith("dropout")] if mismatch else [])


def _as_cause(findings: list[SettingFinding]) -> Candidate | None:
    for finding in findings[:1]:
        words = word(finding.flax), word(finding.torch)
        summary = "the settings differ, as the lint has it"
        return Candidate("", summary, finding.setting, *words, math.nan, False)
    return None


__all__ = ["Candidate", "Diagnosis", "SettingFinding", "diagnose", "lint_pair"]
