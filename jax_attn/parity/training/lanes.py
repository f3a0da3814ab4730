"""The float64 lane of a comparison of two trainings: torch leads, and every quantity is judged by itself."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jax_attn.parity import tolerances
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.dropout import DropoutMismatch, Tape
from jax_attn.parity.runners.places import lifted
from jax_attn.parity.text import described
from jax_attn.parity.training.flax_runner import FlaxRecipe, FlaxStep, FlaxTrainer
from jax_attn.parity.training.judge import StepJudge
from jax_attn.parity.training.measures import EPS, drift, global_norm
from jax_attn.parity.training.report import Deviation, StepRow, TrainingReport
from jax_attn.parity.training.torch_runner import BadLoss, TorchRecipe, TorchStep, TorchTrainer

Progress = Callable[[str, str], None]

# How large the roundings are by which a second run of torch differs, beside the largest gradient: about what
# another order of summation makes.
ROUNDING = 4 * EPS


@dataclass(frozen=True)
class TrainingComparison:
    """Two trainings, and how they are compared; see `compare_training`.

    Attributes:
        calls: the batch of each step.
        bound: of losses and gradients in float64.
    """

    flax: FlaxRecipe
    torch: TorchRecipe
    calls: Sequence[Call]
    bound: float
    seed: int
    progress: Progress

    def steps(self, lane: Lane, note: str = "") -> Iterator[tuple[int, Call]]:
        """Number and batch of each step, in the lane's dtype."""
        for step, batch in enumerate(self.calls):
            self.progress(lane.name, f"step {step}{note}")
            yield step, batch.cast(lane)

    def tape(self, step: int) -> Tape | None:
        """The dropout masks of a step: the same ones for everyone who draws them."""
        return Tape(self.seed + step) if self.torch.training else None


def exact_lane(given: TrainingComparison, lane: Lane, report: TrainingReport) -> None:
    """Torch leads, and every quantity of every step is judged by itself; beside it the two free runs."""
    leader = TorchTrainer(given.torch)
    twin = TorchTrainer(given.torch, jitter=ROUNDING, seed=given.seed)
    twin.move(EPS, "float64")
    follower = FlaxTrainer(given.flax, lane)
    follower.start(leader.values())
    judge = StepJudge(lane.name, given.bound, leader.untrained, given.torch.clip is not None)
    rounding, moved, others = 0.0, False, list[Deviation]()
    for step, call in given.steps(lane):
        side = "torch"
        try:
            tape = given.tape(step)
            theirs = leader.step(call, tape)
            trained = {key: theirs.updates[key] for key in theirs.rates}
            other = twin.step(call, given.tape(step), brief=True).updates
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
            others.append(raised(lane.name, step, side, error))
            break
        found = judge.judge(step, led, theirs)
        moved = moved or any(update.any() for update in trained.values())
        if judge.passed:
            others.append(drifted(lane.name, step, apart, rounding))
        report.steps.append(step_row(lane.name, step, led, theirs, found, apart, rounding))
    judge.finish()
    report.deviations += [*judge.deviations, *others]
    report.left_out += judge.left_out
    report.left_out += [LeftOut("", lane.name, "torch", way) for way in leader.ways.taken]
    if entry := lifted(follower.places, leader.places):
        report.left_out.append(LeftOut("", lane.name, *entry))
    if judge.step >= 0 and not moved:
        report.deviations.append(nothing_moved(lane.name))


def drifted(lane: str, step: int, apart: float, rounding: float) -> Deviation:
    """How far two free runs may be apart by this step, where rounding alone makes `rounding`."""
    limit = max(tolerances.UPDATE, tolerances.DRIFT * rounding)
    detail = f"every quantity agrees by itself; rounding alone makes {rounding:.3g}"
    return Deviation(lane, step, "drift", "", apart, limit, bool(apart <= limit), detail=detail)


def step_row(
    lane: str,
    step: int,
    flax: FlaxStep,
    torch: TorchStep,
    found: Iterable[Deviation],
    apart: float,
    rounding: float,
) -> StepRow:
    """The line of the table; `found` is what was judged, `apart` and `rounding` are listed as they are."""

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


def nothing_moved(lane: str) -> Deviation:
    """Two trainings that both do nothing are no proof of anything."""
    detail = "torch's optimizer moves nothing in any step, so there is nothing to compare"
    return Deviation(lane, 0, "run", "", math.nan, tolerances.UPDATE, False, detail=detail)


def raised(lane: str, step: int, side: str, error: Exception) -> Deviation:
    """A side that could not be run."""
    message = f"{side} raised {described(error)}"
    if isinstance(error, DropoutMismatch):
        message += "; training=False compares the rest without dropout"
    return Deviation(lane, step, "run", "", math.nan, 0.0, False, detail=message)
