"""Where in a tensor its error lies: along each axis, the largest error at each place."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.judging.errors import difference, widened
from jax_attn.parity.judging.lane_run import LaneRun
from jax_attn.parity.lanes import Lane, lanes_named
from jax_attn.parity.report import Report, Result

CELLS = 48
MOST = 8


@dataclass(frozen=True)
class ErrorMap:
    """One tensor.

    Attributes:
        result: what was found of it.
        shape: its shape in torch.
        axes: for each axis, the largest error at each index, or, of a long axis, in equal stretches of it.
    """

    result: Result
    shape: tuple[int, ...]
    axes: tuple[tuple[float, ...], ...]


def error_maps(lane_run: Callable[[Lane], LaneRun], case: Case, report: Report) -> list[ErrorMap]:
    """Maps of the worst tensors of a case, those of a lane in which it runs once more.

    Args:
        lane_run: both sides, ready to run in a lane.
        case: the case.
        report: what was found.
    """
    failed = [result for result in report.failures if result.case == case.name and result.kind != "run"]
    exact = [result for result in failed if result.lane in ("float64", "dropout")]
    worst = next(iter(exact or failed), None)
    if worst is None:
        return []
    chosen = [result for result in failed if result.lane == worst.lane][:MOST]
    tensors = _tensors(lane_run(lanes_named([worst.lane])[0]), case)
    maps = ((result, tensors.get((result.kind, result.name))) for result in chosen)
    return [_map(result, *arrays) for result, arrays in maps if arrays is not None]


def _tensors(run: LaneRun, case: Case) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Flax's tensor and the truth, by kind and name; nothing where a side cannot be run."""
    attempt = run.attempt(case)
    if attempt.torch is None or attempt.flax is None:
        return {}
    pairs = run.paired(case, attempt.torch, attempt.flax).pairs
    return {(p.kind, p.name): (p.flax, p.truth) for p in pairs if p.flax.shape == p.truth.shape}


def _map(result: Result, flax: np.ndarray, torch: np.ndarray) -> ErrorMap:
    error = np.abs(difference(widened(flax), widened(torch)))
    return ErrorMap(result, torch.shape, tuple(along(error, axis) for axis in range(error.ndim)))


def along(error: np.ndarray, axis: int) -> tuple[float, ...]:
    """The largest error at each index of an axis, or of up to `CELLS` stretches of it; NaN is largest."""
    if not error.size:
        return ()
    line = error.max(axis=tuple(other for other in range(error.ndim) if other != axis))
    return tuple(float(part.max()) for part in np.array_split(line, min(CELLS, len(line))))
