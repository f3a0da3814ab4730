"""Why two modules differ: the known fault that, planted into torch, makes it do what Flax does.

Whichever side is wrong, the fault that turns torch's numbers into Flax's says what differs, and both values.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flax import nnx

from jax_attn.parity import bounds
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import Weights, carry_weights
from jax_attn.parity.diagnosis import Candidate, Diagnosis
from jax_attn.parity.divergence import Divergence
from jax_attn.parity.faults import FAULTS, Fault, base_fault, eps_fault, plant
from jax_attn.parity.faults.precision import PLANTERS, one_weight
from jax_attn.parity.faults.weights import variants
from jax_attn.parity.flax_side import has_dropout
from jax_attn.parity.lane_run import Sides
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.lint_modules import SettingFinding, lint_pair, word
from jax_attn.parity.module_pairs import ModuleNames
from jax_attn.parity.recording import TOP
from jax_attn.parity.report import Report
from jax_attn.parity.search import find
from jax_attn.parity.second_draw import second_trial
from jax_attn.parity.trace import Progress, Tracer
from jax_attn.parity.traced import ModuleTrace
from jax_attn.parity.trials import Trial, trial_of
from jax_attn.weights.rules import Names

Tried = tuple[Fault, Candidate]

# What brings the error down by less is no likely cause.
LIKELY = 1e-2

# So many weights are tried one by one below submodules that are right, and no more.
MANY_WEIGHTS = 64

# Between these an error is of the size that rounding to float32 makes.
FLOAT32 = 1e-10, 1e-6


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
        trace = report.trace if report is not None and divergence is not None else None
        if divergence is None:
            trace = Tracer.of(sides, lane, modules, flax_module).trace(case, progress=progress)
        where = divergence or (None if trace is None else find(trace))
        if where is None:
            continue
        trial = trial_of(sides, lane, case, where)
        if trial.error <= trial.bound:  # it was found in the other lane, or is not to be seen again
            continue
        right = _right(trace, where)
        tried = list(_candidates(trial, where, right, faults, progress))
        if faults is None and right and not any(candidate.explains for _, candidate in tried):
            # What is called and is right may yet be used in another way than by calling it.
            below = _of_weights(trial, where, right)
            tried += _candidates(trial, where, [], below, progress)
        second = None
        if any(candidate.explains for _, candidate in tried):
            progress("another draw")
            second = second_trial(trial, flax_module, weights, case, lane, where)
        found = _diagnosis(trial, second, where, lint, tried)
        found.also = _also(trace, where)
        break
    found.seconds = time.perf_counter() - started
    return found


def _drops(torch: Any) -> bool:
    return any("dropout" in type(child).__name__.lower() for child in torch.modules())


def _place(trace: ModuleTrace, where: Divergence) -> int:
    """The call at fault in the trace."""
    same = [i for i, call in enumerate(trace.calls)
            if (call.flax.path, call.flax.number) == (where.flax_path, where.call - 1)]  # fmt: skip
    return TOP if where.flax_class == "the call" or not same else same[0]


def _right(trace: ModuleTrace | None, where: Divergence) -> list[str]:
    """Paths, below the module at fault, of submodules that are right on torch's inputs."""
    if trace is None or where.direction == "backward":
        return []
    inside = where.torch_path
    calls = [call for _, call in trace.children(_place(trace, where))]
    wrong = {call.torch.path for call in calls if call.isolated is None or not call.isolated.agrees}
    right = {call.torch.path for call in calls} - wrong - {inside}
    return [path.removeprefix(inside).lstrip(".") for path in right if path.startswith(inside)]


def _of_weights(trial: Trial, where: Divergence, right: Sequence[str]) -> list[Fault]:
    """The faults of single weights below submodules that are right, unless they are too many to try."""
    target = trial.sides.torch.get_submodule(where.torch_path)
    known = sum(1 for _ in variants(_without(target, right)))
    found = [fault for fault in variants(target) if not fault.setting.startswith("gradient")]
    return found if len(found) - known <= MANY_WEIGHTS else []


def _also(trace: ModuleTrace | None, where: Divergence) -> list[tuple[str, float]]:
    """Further modules whose own code differs, with the error on torch's inputs."""
    found: dict[str, float] = {}
    for call in [] if trace is None or where.direction == "backward" else trace.calls:
        if call.isolated is not None and not call.isolated.agrees and call.flax.path != where.flax_path:
            found[call.flax.path] = max(call.isolated.error, found.get(call.flax.path, 0.0))
    return list(found.items())


def _candidates(
    trial: Trial,
    where: Divergence,
    right: Sequence[str],
    faults: Sequence[Fault] | None,
    progress: Progress,
) -> Iterator[Tried]:
    target = trial.sides.torch.get_submodule(where.torch_path)
    for fault in _fitting(trial, where, target, right) if faults is None else faults:
        try:
            if not fault.fits(target):
                continue
            progress(fault.name)
            yield from _tried(fault, trial)
        except Exception:  # it does not fit after all
            continue


def _tried(fault: Fault, trial: Trial) -> Iterator[Tried]:
    planted = plant(fault, trial.sides.torch, trial.divergence.torch_path, share_weights=True)
    error = trial.of(planted)
    if planted.acts.words:
        flax, torch = (", ".join(dict.fromkeys(words)) for words in zip(*planted.acts.words, strict=True))
        explains = bool(error <= trial.bound)
        yield fault, Candidate(fault.name, fault.summary, fault.setting, flax, torch, error, explains)


def _fitting(trial: Trial, where: Divergence, target: Any, right: Sequence[str]) -> Iterator[Fault]:
    """Every known fault that shows in the trial's lane and direction, in code that may be wrong."""
    backward, training = where.direction == "backward", trial.lane.training
    rest = _without(target, right)
    for fault in _all(trial, target, rest):
        of_gradients = fault.setting.startswith("gradient")
        if (of_gradients and not backward) or (fault.lane == "dropout" and not training):
            continue
        if fault.family == "models" or fault.setting in AROUND or fault.fits(rest):
            yield fault


# Faults of what is done with submodules, which may all be right; others are sought in what may be wrong.
AROUND = ("axes", "normalisation", "norm placement", "skip connection", "fused q, k, v")


def _without(module: Any, right: Sequence[str]) -> Any:
    """The module without some of its submodules: only to be looked at."""
    rest = copy.copy(module)
    rest._modules = {
        name: _without(child, [path[len(name) + 1 :] for path in right if path.startswith(f"{name}.")])
        for name, child in module._modules.items()
        if child is not None and name not in right
    }
    return rest


def _all(trial: Trial, target: Any, rest: Any) -> Iterator[Fault]:
    """Every known fault; those of single weights for each of them; the eps and rotary bases that Flax has."""
    single = variants(rest)
    yield from (fault for fault in FAULTS.values() if fault.name not in {each.name for each in single})
    yield from single
    weights = [key for key, parameter in rest.named_parameters() if parameter.ndim > 1]
    if sum(parameter.ndim > 1 for parameter in target.parameters()) > 1:
        yield from (one_weight(FAULTS[name], key) for name in PLANTERS for key in weights)
    numbers = set(_numbers(trial.sides.flax))
    known = {1e-5, 1e-6, 1e-12, 0.0}
    yield from map(eps_fault, sorted(value for value in numbers - known if 0 < value <= 1e-2))
    yield from map(base_fault, sorted(value for value in numbers - {5e5, 1e4} if value >= 100))


def _numbers(flax: nnx.Module) -> Iterator[float]:
    """Numbers that a Flax module holds: an eps, or the base of rotary frequencies, under whatever name."""
    for _, node in nnx.iter_modules(flax, graph=True):
        for value in vars(node).values():
            if isinstance(value, float):
                yield value


def _diagnosis(
    trial: Trial,
    second: Trial | None,
    where: Divergence,
    lint: list[SettingFinding],
    tried: list[Tried],
) -> Diagnosis:
    first = tried
    if second is not None:
        tried = [(fault, _again(fault, candidate, second)) for fault, candidate in tried]
    candidates = sorted((c for _, c in tried), key=lambda c: math.inf if math.isnan(c.error) else c.error)
    found = Diagnosis("unknown", None, where, trial.error, trial.bound, candidates, lint=lint)
    lost = [new for (_, new), (_, old) in zip(tried, first, strict=True) if old.explains and not new.explains]
    told = dict.fromkeys(map(str, lost))
    found.notes += [f"on these inputs it could also be, but not on others: {cause}" for cause in told]
    if trial.error <= FLOAT32[1] and any(c.fault == "float32-lifted" and not c.explains for c in candidates):
        found.notes.append(
            f"torch computes in float32 inside {where.torch_path or 'the module itself'}: below "
            f"{FLOAT32[1]:.0e} the float64 lane cannot tell; compare in the lanes float32 and bfloat16"
        )
    good = [candidate for candidate in candidates if candidate.explains]
    if good:
        causes = {(candidate.setting, candidate.flax) for candidate in good}
        found.cause = _quoted(good, lint)
        sure = second is not None and (len(causes) == 1 or _is_told(found.cause, lint))
        found.certainty = "certain" if sure else "likely"
    elif candidates and candidates[0].error <= LIKELY * trial.error:
        found.cause, found.certainty = candidates[0], "likely"
    else:
        found.cause = _read(trial, where, lint) or _rounding(trial, candidates)
        found.certainty = "unknown" if found.cause is None else "likely"
    return found


def _again(fault: Fault, candidate: Candidate, second: Trial) -> Candidate:
    """What explains the first draw is tried on the second."""
    if not candidate.explains:
        return candidate
    try:
        [(_, again)] = _tried(fault, second)
    except Exception:  # the second draw does not reach it
        return replace(candidate, error=math.nan, explains=False)
    return replace(candidate, error=max(candidate.error, again.error), explains=again.explains)


def _quoted(good: list[Candidate], lint: list[SettingFinding]) -> Candidate:
    """Of several that explain it, the one that the modules tell of themselves; or whose setting differs."""
    told = {finding.setting for finding in lint}
    return min(good, key=lambda c: (not _is_told(c, lint), c.setting not in told))


def _is_told(candidate: Candidate, lint: list[SettingFinding]) -> bool:
    """Whether the modules tell of the very difference."""
    return any(f.setting == candidate.setting and word(f.flax) == candidate.flax for f in lint)


def _read(trial: Trial, where: Divergence, lint: list[SettingFinding]) -> Candidate | None:
    """A setting that differs as the modules tell, where no fault explains it."""
    dropout = [f for f in lint if f.setting.startswith("dropout")]
    here = [f for f in lint if f.flax_path == where.flax_path and f not in dropout]
    if trial.lane.training:  # what draws otherwise has no numbers to compare
        here += dropout
    for finding in here[:1]:
        words = word(finding.flax), word(finding.torch)
        summary = "the settings differ, as the lint has it"
        return Candidate("", summary, finding.setting, *words, math.nan, False)
    return None


def _rounding(trial: Trial, candidates: list[Candidate]) -> Candidate | None:
    """Two sides that both round never agree to the last digit: an error of that size tells of rounding."""
    if not FLOAT32[0] <= trial.error <= FLOAT32[1]:
        return None
    narrow = [c for c in candidates if c.setting.startswith("precision") and c.error <= 2 * trial.error]
    both = any(candidate.fault == "float32-lifted" for candidate in candidates)
    return None if both else next(iter(narrow), None)


__all__ = ["Candidate", "Diagnosis", "SettingFinding", "diagnose", "lint_pair"]
