"""The float32 lane of a comparison of two trainings: both run freely, beside torch in float64."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut
from jax_attn.parity.training.flax_runner import FlaxStep, FlaxTrainer
from jax_attn.parity.training.judge import never_acted
from jax_attn.parity.training.lanes import TrainingComparison, nothing_moved, raised, step_row
from jax_attn.parity.training.pairs import StepPairs
from jax_attn.parity.training.report import Deviation, StepRow, TrainingReport
from jax_attn.parity.training.torch_runner import BadLoss, TorchStep, TorchTrainer

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
        pairs = StepPairs(flax, torch, untrained, self.left_out)
        self.quantities["loss"].add(flax.loss, torch.loss, truth.loss)
        for key, *tensors, _ in pairs.gradients():
            self.quantities["gradient"].add(*tensors, truth.gradients.get(key, 0.0 * tensors[1]))
        here = Noise()
        for key, *tensors, detail in pairs.updates():
            here.add(*tensors, truth.updates[key])
            if detail:
                self.details["update"] = f"{key}: {detail}"
        self.quantities["update"] += here
        for key, *tensors, detail in pairs.buffers():
            self.quantities["buffer"].add(*tensors, truth.before[key] + truth.updates[key])
            if detail:
                self.details["buffer"] = detail
        self.moved |= any(truth.updates[key].any() for key in truth.rates)
        given = truth.gradients
        self.clipped |= any(not np.array_equal(truth.clipped[key], given[key]) for key in given)
        size = math.sqrt(here.truth) or 1.0
        return math.sqrt(here.ours) / size, math.sqrt(here.theirs) / size


def noise_lane(given: TrainingComparison, lane: Lane, report: TrainingReport) -> None:
    """Both run freely in float32, beside torch in float64 from the same float32 weights and batches.

    As in `compare`, a ratio above its bound is measured over further draws of the roundings.
    """
    ours, noises = FlaxTrainer(given.flax, lane), Noises()
    for draw in range(tolerances.RARE_DRAWS):
        noises.next_draw()
        rows, failure = _noisy_run(given, lane, ours, draw, noises)
        if draw == 0:
            report.steps += rows
        if failure is not None:
            report.deviations.append(failure)
            return
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
    if given.torch.clip is not None and not noises.clipped:
        noises.left_out["clipping"] = never_acted(len(given.calls))
    report.left_out += [LeftOut("", lane.name, name, reason) for name, reason in noises.left_out.items()]


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
    given: TrainingComparison, lane: Lane, ours: FlaxTrainer, draw: int, noises: Noises
) -> tuple[list[StepRow], Deviation | None]:
    """The steps of one draw, and the failure of a side that raised."""
    theirs, truth = (
        TorchTrainer(given.torch, dtype, lane.dtype, seed=given.seed + draw)
        for dtype in (lane.dtype, "float64")
    )
    if draw:
        theirs.move(8 * lane.eps, lane.dtype)
        truth.move(8 * lane.eps, lane.dtype)
    ours.start(theirs.values())
    rows = []
    for step, call in given.steps(lane, f", draw {draw}" if draw else ""):
        side = "torch"
        try:
            tape = given.tape(step)
            b, t = theirs.step(call, tape), truth.step(call, given.tape(step))
            side = "flax"
            a = ours.step(call, tape)
        except BadLoss:
            raise
        except Exception as error:
            return rows, raised(lane.name, step, side, error)
        apart, rounding = noises.add(a, b, t, truth.untrained)
        rows.append(step_row(lane.name, step, a, b, [], apart, rounding))
    return rows, None
