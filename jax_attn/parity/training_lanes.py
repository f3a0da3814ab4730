"""One lane of a comparison of two trainings: float64, led by torch, or the noise of float32."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jax_attn.parity import bounds
from jax_attn.parity.calls import Call
from jax_attn.parity.dropout import Tape
from jax_attn.parity.lanes import Lane
from jax_attn.parity.training_flax import FlaxRecipe, FlaxStep, FlaxTrainer
from jax_attn.parity.training_judge import EPS, StepJudge, drift, global_norm
from jax_attn.parity.training_report import Deviation, StepRow, TrainingReport
from jax_attn.parity.training_torch import BadLoss, TorchRecipe, TorchStep, TorchTrainer

Progress = Callable[[str, str], None]

# How large the roundings are by which a second run of torch differs, beside the largest gradient: about what
# another order of summation makes.
ROUNDING = 4 * EPS

# A noise ratio this far above its bound, over several draws, is not tried again.
HOPELESS = 1.5


def exact_lane(
    flax: FlaxRecipe,
    torch: TorchRecipe,
    calls: Sequence[Call],
    lane: Lane,
    bound: float,
    seed: int,
    progress: Progress,
) -> TrainingReport:
    """Torch leads, and every quantity of every step is judged by itself; beside it the two free runs."""
    report = TrainingReport()
    leader = TorchTrainer(torch)
    twin = TorchTrainer(torch, jitter=ROUNDING, seed=seed)
    twin.move(EPS, "float64")
    follower = FlaxTrainer(flax, lane)
    follower.start(leader.values())
    judge = StepJudge(lane.name, bound, leader.untrained, torch.clip is not None)
    rounding, moved = 0.0, False
    for step, batch in enumerate(calls):
        progress(lane.name, f"step {step}")
        call, side = batch.cast(lane), "torch"
        try:
            tape = _tape(torch, seed, step)
            theirs = leader.step(call, tape)
            trained = {key: theirs.updates[key] for key in theirs.rates}
            other = twin.step(call, _tape(torch, seed, step), brief=True).updates
            rounding = max(rounding, drift(other, trained, theirs.before))
            del other  # a large model's tensors are not kept longer than they are needed
            side = "flax"
            free = follower.step(call, tape, brief=True).updates
            apart = drift(free, trained, theirs.before)
            del free
            led = follower.step(call, tape, leader=theirs)
        except BadLoss:
            raise
        except Exception as error:
            report.deviations.append(_raised(lane.name, step, side, error))
            break
        found = judge.judge(step, led, theirs)
        moved = moved or any(update.any() for update in trained.values())
        if judge.passed:
            report.deviations.append(_drifted(lane.name, step, apart, rounding))
        report.steps.append(_row(lane.name, step, led, theirs, found, apart, rounding))
    judge.finish()
    report.deviations = [*judge.deviations, *report.deviations]
    report.left_out += judge.left_out
    if report.steps and not moved:
        detail = "torch's optimizer moves nothing in any step, so there is nothing to compare"
        report.deviations.append(
            Deviation(lane.name, 0, "run", "", math.nan, bounds.UPDATE, False, detail=detail)
        )
    return report


@dataclass
class _Noise:
    """Sums of squares over steps: of our distance from the truth, of torch's, and of the truth."""

    ours: float = 0.0
    theirs: float = 0.0
    truth: float = 0.0

    def add(self, ours: Any, theirs: Any, truth: Any) -> None:
        wide = [np.asarray(array, np.float64) for array in (ours, theirs, truth)]
        self.ours += float(np.sum((wide[0] - wide[2]) ** 2))
        self.theirs += float(np.sum((wide[1] - wide[2]) ** 2))
        self.truth += float(np.sum(wide[2] ** 2))

    def ratio(self, eps: float) -> float:
        """Our noise in units of torch's, or of the dtype's epsilon where torch has less."""
        floor = max(math.sqrt(self.theirs), eps * math.sqrt(self.truth))
        return 0.0 if self.ours == 0 else math.sqrt(self.ours) / floor if floor else math.inf


@dataclass
class _Noises:
    """The noise of each quantity, of all steps and parameters together."""

    quantities: dict[str, _Noise] = field(
        default_factory=lambda: {name: _Noise() for name in ("loss", "gradient", "update")}
    )

    def add(self, flax: FlaxStep, torch: TorchStep, truth: TorchStep) -> tuple[float, float]:
        """Take in a step; how far Flax's updates are from the truth, and torch's, as a part of it."""
        self.quantities["loss"].add(flax.loss, torch.loss, truth.loss)
        for key in truth.gradients:
            if key in flax.gradients:
                tensors = (flax.gradients[key], torch.gradients[key], truth.gradients[key])
                self.quantities["gradient"].add(*tensors)
        here = _Noise()
        for key in truth.rates:
            if key in flax.updates:
                here.add(flax.updates[key], torch.updates[key], truth.updates[key])
        whole = self.quantities["update"]
        for name in ("ours", "theirs", "truth"):
            setattr(whole, name, getattr(whole, name) + getattr(here, name))
        size = math.sqrt(here.truth) or 1.0
        return math.sqrt(here.ours) / size, math.sqrt(here.theirs) / size


def noise_lane(
    flax: FlaxRecipe,
    torch: TorchRecipe,
    calls: Sequence[Call],
    lane: Lane,
    bound: float,
    seed: int,
    progress: Progress,
) -> TrainingReport:
    """Both run freely in float32, beside torch in float64 from the same float32 weights and batches.

    As in `compare`, a ratio above its bound is measured over further draws of the roundings.
    """
    report = TrainingReport()
    ours, noises = FlaxTrainer(flax, lane), _Noises()
    for draw in range(max(bounds.DRAWS)):
        rows = _noisy_run(ours, torch, calls, lane, seed, draw, noises, progress, report)
        if draw == 0:
            report.steps = rows
        if report.deviations:  # a side raised
            return report
        ratios = [noise.ratio(lane.eps) for noise in noises.quantities.values()]
        if _settled(float(np.max(ratios)), draw + 1):
            break
    for name, noise in noises.quantities.items():
        ratio = noise.ratio(lane.eps)
        passed = bool(ratio <= bounds.NOISE_RATIO)
        drawn = f", in {draw + 1} draws of the roundings" if draw else ""
        detail = f"noise ratio over all steps{drawn}"
        report.deviations.append(
            Deviation(lane.name, -1, name, "", ratio, bounds.NOISE_RATIO, passed, detail=detail)
        )
    return report


def _settled(ratio: float, draws: int) -> bool:
    """Whether further draws would change nothing: within the bound, or far beyond it, or not finite."""
    if draws == 1:
        return ratio <= bounds.NOISE_RATIO or not math.isfinite(ratio)
    return draws in bounds.DRAWS and not bounds.NOISE_RATIO < ratio <= HOPELESS * bounds.NOISE_RATIO


def _noisy_run(
    ours: FlaxTrainer,
    torch: TorchRecipe,
    calls: Sequence[Call],
    lane: Lane,
    seed: int,
    draw: int,
    noises: _Noises,
    progress: Progress,
    report: TrainingReport,
) -> list[StepRow]:
    theirs, truth = (
        TorchTrainer(torch, dtype, lane.dtype, seed=seed + draw) for dtype in (lane.dtype, "float64")
    )
    if draw:
        theirs.move(8 * lane.eps, lane.dtype)
        truth.move(8 * lane.eps, lane.dtype)
    ours.start(theirs.values())
    rows = []
    for step, batch in enumerate(calls):
        progress(lane.name, f"step {step}" + (f", draw {draw}" if draw else ""))
        call, side = batch.cast(lane), "torch"
        try:
            tape = _tape(torch, seed, step)
            b, t = theirs.step(call, tape), truth.step(call, _tape(torch, seed, step))
            side = "flax"
            a = ours.step(call, tape)
        except BadLoss:
            raise
        except Exception as error:
            report.deviations.append(_raised(lane.name, step, side, error))
            break
        apart, rounding = noises.add(a, b, t)
        rows.append(_row(lane.name, step, a, b, [], apart, rounding))
    return rows


def _tape(torch: TorchRecipe, seed: int, step: int) -> Tape | None:
    """The dropout masks of a step: the same ones for everyone who draws them."""
    return Tape(seed + step) if torch.training else None


def _drifted(lane: str, step: int, apart: float, rounding: float) -> Deviation:
    limit = max(bounds.UPDATE, bounds.DRIFT * rounding)
    detail = f"every quantity agrees by itself; rounding alone makes {rounding:.3g}"
    return Deviation(lane, step, "drift", "", apart, limit, bool(apart <= limit), detail=detail)


def _row(
    lane: str,
    step: int,
    flax: FlaxStep,
    torch: TorchStep,
    found: Sequence[Deviation],
    apart: float,
    rounding: float,
) -> StepRow:
    def worst(quantity: str) -> Deviation | None:
        named = [deviation for deviation in found if deviation.quantity == quantity]
        return max(named, key=lambda deviation: deviation.severity, default=None)

    rates = set(torch.rates.values())
    gradient, update = worst("gradient"), worst("update")
    return StepRow(
        lane,
        step,
        (flax.loss, torch.loss),
        (global_norm(flax.gradients), global_norm(torch.gradients)),
        (flax.rate, rates.pop() if len(rates) == 1 else None),
        None if gradient is None else gradient.error,
        None if update is None else update.error,
        "" if update is None or not update.error else update.parameter,
        apart,
        rounding,
    )


def _raised(lane: str, step: int, side: str, error: Exception) -> Deviation:
    message = f"{side} raised {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return Deviation(lane, step, "run", "", math.nan, 0.0, False, detail=message)
