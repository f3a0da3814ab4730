"""What one case has come to so far."""

from dataclasses import dataclass

from jax_attn.parity.cases import Case
from jax_attn.parity.report import LeftOut, Result
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.trees import Skeleton

Verdict = tuple[list[Result], list[LeftOut]]


class RunsOnSome(Exception):
    """A side that cannot be run again on nearby numbers: what was measured before stands."""


@dataclass(frozen=True)
class ByTorch:
    """One call, and what torch gave for it: in the lane's dtype, and in float64 on the same numbers."""

    call: Call
    skeleton: Skeleton
    run: Run
    truth: Run
    tape: Tape | None


@dataclass
class Attempt:
    """What one case has come to so far; `verdict` is set as soon as there is no more to be done."""

    case: Case
    torch: ByTorch | None = None
    flax: Run | None = None
    verdict: Verdict | None = None
