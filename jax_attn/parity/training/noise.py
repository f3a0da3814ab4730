"""The float32 lane of a comparison of two trainings: both run freely, beside torch in float64."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.training.flax_runner import FlaxRecipe, FlaxStep, FlaxTrainer
from jax_attn.parity.training.judge import VARIANCE, never_acted
from jax_attn.parity.training.lanes import Progress, nothing_moved, raised, step_row, tape_of
from jax_attn.parity.training.report import Deviation, StepRow, TrainingReport
from jax_attn.parity.training.torch_runner import BadLoss, TorchRecipe, TorchStep, TorchTrainer

# A noise ratio this far above its bound, over several draws, is not tried again.
HOPELESS = 1.5


@dataclass
class Noise:
    """Sums of squares over steps: of our distance from the truth, of torch's, and of the truth."""

    ours: float = 0.0
    theirs: float = 0.0
    truth: float = 0.0

    def add(self, ours: Any, theirs: Any, truth: Any) -> None:
        """Take in a tensor."""
        wide = [np.asarray(array, np.float64) for array in (ours, theirs, truth)]
        self.ours += float(np.sum((wide[0] - wide[2]) ** 2))
        self.theirs += float(np.sum((wide[1] - wide[2]) ** 2))
        self.truth += float(np.sum(wide[2] ** 2))

    def __add__(self, other: "Noise") -> "Noise":
        return Noise(self.ours + other.ours, self.theirs + other.theirs, self.truth + other.truth)

    def ratio(self, eps: float) -> float:
        """Our noise in units of torch's, or of the dtype's epsilon where torch has less."""
        floor = max(math.sqrt(self.theirs), eps * math.sqrt(self.truth))
        return 0.0 if self.ours == 0 else math.sqrt(self.ours) / floor if floor else math.inf


Tensors = tuple[Any, Any, Any]


class Noises:
    """The noise of each quantity, of all steps and parameters together, and what is not among it."""

    def __init__(self) -> None:
        self.draws: list[dict[str, Noise]] = []
        self.details: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.moved = self.clipped = False

    @property
    def quantities(self) -> dict[str, Noise]:
        """The noise of each quantity in the last of the draws."""
        return self.draws[-1]

    def next_draw(self) -> None:
        """What is taken in from now on belongs to another draw of the roundings."""
        self.draws.append(defaultdict(Noise))

    def by_draw(self) -> dict[str, list[Noise]]:
        """The noise of each quantity, draw by draw."""
        return {name: [draw[name] for draw in self.draws] for name in self.draws[0]}

    def add(
        self, flax: FlaxStep, torch: TorchStep, truth: TorchStep, untrained: Callable[[str], str]
    ) -> tuple[float, float]:
        """Take in a step; how far Flax's updates are from the truth, and torch's, as a part of it.

        Args:
            flax: ours.
            torch: torch's in the lane's dtype.
            truth: torch's in float64.
            untrained: why torch does not train a key; "" if it does.
        """
        self.quantities["loss"].add(flax.loss, torch.loss, truth.loss)
        for tensors in self._gradients(flax, torch, truth, untrained):
            self.quantities["gradient"].add(*tensors)
        here = Noise()
        for tensors in self._updates(flax, torch, truth, untrained):
            here.add(*tensors)
        self.quantities["update"] += here
        for tensors in self._buffers(flax, torch, truth, untrained):
            self.quantities["buffer"].add(*tensors)
        self.moved |= any(truth.updates[key].any() for key in truth.rates)
        given = truth.gradients
        self.clipped |= any(not np.array_equal(truth.clipped[key], given[key]) for key in given)
        size = math.sqrt(here.truth) or 1.0
        return math.sqrt(here.ours) / size, math.sqrt(here.theirs) / size

    def _gradients(
        self, flax: FlaxStep, torch: TorchStep, truth: TorchStep, untrained: Callable[[str], str]
    ) -> Iterator[Tensors]:
        for key, ours in flax.gradients.items():
            if key in truth.gradients:
                yield ours, torch.gradients[key], truth.gradients[key]
            elif reason := untrained(key):
                self.left_out[f"gradient of {key}"] = reason
            else:  # nothing in torch's loss depends on it
                yield ours, np.zeros_like(ours), np.zeros_like(ours)
        for key in truth.gradients:
            if key not in flax.gradients:
                self.left_out[f"gradient of {key}"] = "not trained in flax"

    def _updates(
        self, flax: FlaxStep, torch: TorchStep, truth: TorchStep, untrained: Callable[[str], str]
    ) -> Iterator[Tensors]:
        """Of every parameter that either side trains; the other's update is then 0."""
        for key, update in truth.updates.items():
            reason = untrained(key)
            if key in flax.updates or not reason:
                reason = reason if key in flax.updates else "not trained in flax"
                if reason:
                    self.details["update"] = f"{key}: {reason}"
                yield flax.updates.get(key, np.zeros_like(update)), torch.updates[key], update
        for key in flax.updates:
            if key not in truth.updates:
                self.left_out[f"update of {key}"] = "no such parameter in torch"

    def _buffers(
        self, flax: FlaxStep, torch: TorchStep, truth: TorchStep, untrained: Callable[[str], str]
    ) -> Iterator[Tensors]:
        """What either side changes of what is not trained: running statistics, as they are after the step."""
        for key, ours in flax.rest.items():
            if key not in truth.updates or not untrained(key):
                continue
            if truth.updates[key].any() or not np.array_equal(ours, torch.before[key]):
                if key.endswith("running_var"):
                    self.details["buffer"] = VARIANCE
                theirs, true = (side.before[key] + side.updates[key] for side in (torch, truth))
                yield ours, theirs, true


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
    ours, noises = FlaxTrainer(flax, lane), Noises()
    for draw in range(tolerances.RARE_DRAWS):
        noises.next_draw()
        rows, failure = _noisy_run(ours, torch, calls, lane, seed, draw, noises, progress)
        if draw == 0:
            report.steps = rows
        if failure is not None:
            report.deviations.append(failure)
            return report
        if all(_settled(drawn, lane.eps) for drawn in noises.by_draw().values()):
            break
    for name, drawn in noises.by_draw().items():
        ratio = _pooled(drawn, lane.eps)
        passed = bool(ratio <= tolerances.NOISE_RATIO)
        times = f", in {len(drawn)} draws of the roundings" if len(drawn) > 1 else ""
        known = f"; {noises.details[name]}" if not passed and name in noises.details else ""
        detail = f"noise ratio over all steps{times}{known}"
        report.deviations.append(
            Deviation(lane.name, -1, name, "", ratio, tolerances.NOISE_RATIO, passed, detail=detail)
        )
    if not noises.moved:
        report.deviations.append(nothing_moved(lane.name))
    if torch.clip is not None and not noises.clipped:
        noises.left_out["clipping"] = never_acted(len(calls))
    report.left_out = [LeftOut("", lane.name, name, reason) for name, reason in noises.left_out.items()]
    return report


def _pooled(drawn: Sequence[Noise], eps: float) -> float:
    """The noise ratio over several draws."""
    return sum(drawn, Noise()).ratio(eps)


def _settled(drawn: Sequence[Noise], eps: float) -> bool:
    """Whether further draws would change nothing: within the bound, far beyond it, or not finite.

    As in `compare`, what few of the draws decide is drawn more often.
    """
    ratio, draws = _pooled(drawn, eps), len(drawn)
    if draws == 1:
        return ratio <= tolerances.NOISE_RATIO or not math.isfinite(ratio)
    if draws not in tolerances.DRAWS:
        return False
    if not tolerances.NOISE_RATIO < ratio <= HOPELESS * tolerances.NOISE_RATIO:
        return True
    within = sum(noise.ratio(eps) <= tolerances.NOISE_RATIO for noise in drawn)
    return draws == max(tolerances.DRAWS) and within < tolerances.RARE * draws


def _noisy_run(
    ours: FlaxTrainer,
    torch: TorchRecipe,
    calls: Sequence[Call],
    lane: Lane,
    seed: int,
    draw: int,
    noises: Noises,
    progress: Progress,
) -> tuple[list[StepRow], Deviation | None]:
    """The steps of one draw, and the failure of a side that raised."""
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
            tape = tape_of(torch, seed, step)
            b, t = theirs.step(call, tape), truth.step(call, tape_of(torch, seed, step))
            side = "flax"
            a = ours.step(call, tape)
        except BadLoss:
            raise
        except Exception as error:
            return rows, raised(lane.name, step, side, error)
        apart, rounding = noises.add(a, b, t, truth.untrained)
        rows.append(step_row(lane.name, step, a, b, [], apart, rounding))
    return rows, None
