"""Compare how a Flax module and a torch module train: loss, gradients, moments and updates, step by step.

Two trainings cannot be compared by where they end. Each step builds on the last, so one rounding error
grows, in Adam by the inverse of the smallest gradients, and what is left after 20 steps may be a mutation or a
rounding. So torch leads: in every step Flax takes the loss and the gradients at *torch's* weights,
clipping gets *torch's* gradients, and the optimizer *torch's* clipped ones, beside a state of its own that
has seen nothing else. No error reaches the next step or the next quantity: each is held to the bound of a
single evaluation, and the first that differs is the cause, not a consequence. No state has to be written into
an optax chain for it, so any chain can be compared, known or not.

Where every quantity of every step agrees so, two free runs differ by amplified rounding alone. They are run
as well. The yardstick is torch beside torch with its weights moved by an ulp, and in every step its gradients
by four: Flax may come `tolerances.DRIFT` times as far from torch as that does, or to `tolerances.UPDATE`.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import SMALL
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.report import LeftOut
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.constants import FlaxConstants
from jax_attn.parity.runners.torch_constants import TorchConstants
from jax_attn.parity.runners.weight_transfer import carry
from jax_attn.parity.text import joined
from jax_attn.parity.tracing.module_pairs import certain_pairs
from jax_attn.parity.training.flax_runner import FlaxRecipe
from jax_attn.parity.training.lanes import TrainingComparison, exact_lane
from jax_attn.parity.training.mode import unseen_in_evaluation
from jax_attn.parity.training.noise import noise_lane
from jax_attn.parity.training.report import TrainingReport
from jax_attn.parity.training.settings import differing_settings
from jax_attn.parity.training.torch_runner import TorchRecipe
from jax_attn.weights.rules import Names

Pair = tuple[Any, Any]
Progress = Callable[[str, str], None]

TRAINING_LANES = ("float64", "float32")


def compare_training(
    flax_module: nnx.Module,
    torch_module: Any,
    batches: Iterable[Any],
    loss: Pair,
    optimizer: Pair,
    steps: int = 20,
    *,
    names: Names = (),
    clip: Pair = (None, None),
    training: bool = True,
    wrt: Any = nnx.Param,
    whole_model: bool = False,
    seed: int = 0,
    lanes: Sequence[str] = TRAINING_LANES,
    title: str = "",
    progress: Progress | None = None,
) -> TrainingReport:
    """Train both modules from torch's weights on the same batches, and say what differs first.

        report = compare_training(
            flax, torch, batches,
            loss=(lambda m, x, y: cross_entropy(m(x), y), lambda m, x, y: F.cross_entropy(m(x), y)),
            optimizer=(adamw(1e-3), lambda params: torch.optim.AdamW(params, 1e-3)),
            clip=(clip_grad_norm(1.0), lambda params: clip_grad_norm_(params, 1.0)),
        )
        report.assert_passed()

    Neither module is changed. In float64 torch leads (see above); in float32 both run freely, and all losses,
    gradients and updates together may be `tolerances.NOISE_RATIO` times as far from torch in float64 as torch's.
    Settings of the optimizers that differ without showing in these steps, as an eps beside large gradients,
    fail nothing, but are reported.

    Args:
        flax_module: any NNX module.
        torch_module: any torch module.
        batches: tuples or dicts of NumPy arrays, taken from the start again when there are fewer than steps.
        loss: `flax_loss(module, *batch)` and `torch_loss(module, *batch)`, or `**batch`; scalars.
        optimizer: an optax transformation, and a function that takes the parameters and returns a torch
            optimizer, or one with its scheduler (stepped after every update). Or an optimizer of
            `torch_module` without a scheduler, whose class and groups are then used, with no state.
        steps: how many.
        names: pairs (pattern, replacement) that turn our keys into torch's, as in `load_state_dict`.
        clip: an optax transformation that runs before the optimizer, and a function that changes the
            gradients of torch's parameters after `backward`. Where Flax clips within its chain, give None
            for it: the clipped gradients are then not compared by themselves.
        training: run in training mode, with shared dropout masks; False is evaluation mode, which leaves
            dropout and running statistics out.
        wrt: which variables Flax trains.
        whole_model: hold losses and gradients to the bound of a whole model rather than of one module.
        seed: of the dropout masks and of the roundings.
        lanes: some of `TRAINING_LANES`.
        title: what the report is called.
        progress: called with (lane, what) before each step.

    Raises:
        StateDictError: the weights of torch do not fit Flax.
        ValueError: a batch, loss, optimizer or lane that is none, a loss that is no scalar, or a scheduler
            that goes by a metric.
    """
    started = time.perf_counter()
    calls = _calls(batches, steps)
    _require_pair("loss", loss, callable, "a function of (module, *batch)")
    _require_pair("clip", clip, lambda each: True, "None or a clipping")
    _require_pair("optimizer", optimizer, lambda each: each is not None, "an optimizer")
    _require_optax("optimizer[0]", optimizer[0])
    if clip[0] is not None:
        _require_optax("clip[0]", clip[0])
    unknown = [lane for lane in lanes if lane not in TRAINING_LANES]
    if unknown or not lanes:
        raise ValueError(
            f"lanes must be some of {', '.join(TRAINING_LANES)}, got {', '.join(unknown) or 'none'}"
        )
    carried = carry(flax_module, torch_module, "torch", names)
    module, names = carried.flax, carried.names
    size = sum(parameter.numel() for parameter in torch_module.parameters())
    pairs = certain_pairs(flax_module, torch_module, names) if training else {}
    theirs = TorchConstants(torch_module, loss[1])
    quick = size <= SMALL
    flax = FlaxRecipe(module, loss[0], optimizer[0], clip[0], training, wrt, names, quick, pairs, theirs)
    left_out = carried.left_out.keys()
    constants = FlaxConstants(module, names, loss[0])
    torch = TorchRecipe(torch_module, loss[1], optimizer[1], clip[1], training, left_out, constants)
    bound = tolerances.WHOLE_MODEL if whole_model else tolerances.MODULE
    given = TrainingComparison(flax, torch, calls, bound, seed, progress or (lambda lane, what: None))
    report = TrainingReport(title)
    for lane in lanes_named(lanes):
        (exact_lane if lane.exact else noise_lane)(given, lane, report)
    report.left_out += carried.left_out_in(lanes[0])
    unseen = "" if training else unseen_in_evaluation(module, torch_module)
    if unseen:
        reason = f"training=False: what either side makes of {unseen} while training"
        report.left_out.append(LeftOut("", lanes[0], "training mode", reason))
    if not any(deviation.quantity == "run" for deviation in report.deviations):
        report.settings = differing_settings(flax, torch, steps, seed)
    _compare_lanes(report)
    report.seconds = time.perf_counter() - started
    return report


def _compare_lanes(report: TrainingReport) -> None:
    """Where float64 agrees and float32 does not, say what that means."""
    exact = [deviation for deviation in report.deviations if deviation.lane == "float64"]
    if exact and all(deviation.passed for deviation in exact):
        word = "float64 agrees: it is the same mathematics, computed less precisely than torch does"
        report.deviations = [
            d if d.passed else replace(d, detail=joined(d.detail, word, by="; ")) for d in report.deviations
        ]


def _calls(batches: Iterable[Any], steps: int) -> list[Call]:
    """A call for each step."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got steps={steps}")
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        raise ValueError(f"batches must be a sequence of batches, got one {type(batches).__name__}")
    calls = []
    for batch in itertools.islice(batches, steps):
        if not isinstance(batch, tuple | list | Mapping) or not batch:
            raise ValueError(
                "batches must be tuples or dicts of arrays, "
                f"got {type(batch).__name__ if batch is not None and len(batch) else 'nothing'} "
                f"in batches[{len(calls)}]"
            )
        named = isinstance(batch, Mapping)
        calls.append(Call.of(Case("", () if named else tuple(batch), batch if named else {})))
    if not calls:
        raise ValueError("batches must hold at least one batch, got none")
    return list(itertools.islice(itertools.cycle(calls), steps))


def _require_pair(name: str, value: Any, fits: Callable[[Any], bool], what: str) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(fits, value)):
        raise ValueError(f"{name} must be a pair, flax's and torch's, of {what}, got {value!r}")


def _require_optax(name: str, value: Any) -> None:
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise ValueError(f"{name} must be an optax transformation, got {type(value).__name__}")
