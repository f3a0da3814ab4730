"""Where every tensor of a step is off by one and the same factor: is it the clipping, or the learning rate?

What is linear in the gradients (a momentum; in SGD the update itself) shows a clipping that differs: both
sides are fed torch's gradients, so flax's value over torch's is flax's clipping over torch's. Let torch have
left a `share` of gradients whose norm is n. Then the factor is `1 / share` where flax does not clip, and
`(n + 1e-6) / n` where it divides by the norm alone. Any other factor of the updates is the learning rate's.
"""

import math
from collections.abc import Mapping

from jax_attn.parity import tolerances
from jax_attn.parity.training.flax_runner import FlaxStep
from jax_attn.parity.training.measures import common_factor, global_norm
from jax_attn.parity.training.optimizer_state import torch_name
from jax_attn.parity.training.report import Deviation
from jax_attn.parity.training.torch_runner import TorchStep

# Moments that are linear in the gradients.
LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")


def blame(
    failed: Mapping[str, set[str]], flax: FlaxStep, torch: TorchStep, lane: str, step: int
) -> Deviation | None:
    """A deviation of the clipping or of the learning rate that explains all that failed; None if none does.

    Args:
        failed: the parameters of each quantity that failed in this step.
        flax: what Flax did.
        torch: what torch did.
        lane: name of the lane.
        step: its number.
    """
    moment = next((name for name in LINEAR if name in failed), None)
    if moment is not None:
        ours = next(t for own, t in flax.moments.items() if torch_name(own, torch.moments) == moment)
        factor, seen_in = common_factor(ours, torch.moments[moment], {}), moment
        rate = None
    elif failed.keys() == {"update"}:
        trained = {key: torch.updates[key] for key in torch.rates}
        if not failed["update"] <= trained.keys() & flax.updates.keys():  # no factor unfreezes a parameter
            return None
        factor, seen_in = common_factor(flax.updates, trained, torch.before), "the updates"
        rate = None if factor is None else _rate(factor, torch)
    else:
        return None
    found = None if factor is None else _clipping(factor, torch)
    quantity = "learning rate" if found is None else "clipped gradient"
    found = rate if found is None else (*found[:2], f"{found[2]}; seen in {seen_in}")
    if factor is None or found is None:
        return None
    return Deviation(lane, step, quantity, "", abs(factor - 1), tolerances.UPDATE, False, *found)


def _clipping(factor: float, torch: TorchStep) -> tuple[str, str, str] | None:
    """Flax's norm, torch's, and what is wrong with the clipping, if that explains the factor."""
    share = common_factor(torch.clipped, torch.gradients, {})
    norm, clipped = global_norm(torch.gradients), global_norm(torch.clipped)
    if share is None or not share < 1 or not norm or math.isinf(factor):  # torch has clipped nothing
        return None
    if math.isclose(factor, 1 / share, rel_tol=tolerances.UPDATE):
        detail = "flax does not clip them"
    elif math.isclose(factor, (norm + 1e-6) / norm, rel_tol=tolerances.UPDATE):
        detail = "flax divides by the norm, torch by the norm + 1e-6"
    else:
        return None
    return f"norm {factor * clipped:.7g}", f"norm {clipped:.7g}", detail


def _rate(factor: float, torch: TorchStep) -> tuple[str, str, str]:
    """Flax's rate, torch's, and what the factor means."""
    rates = set(torch.rates.values())
    detail = "torch moves nothing, flax does" if math.isinf(factor) else "flax moves nothing"
    if 0 < abs(factor) < math.inf:
        detail = f"every update is {factor:.10g} times torch's"
    if len(rates) > 1:
        return f"{factor:.10g} times torch's", "of several groups", detail
    rate = rates.pop()
    return "not 0" if math.isinf(factor) else f"{factor * rate:.10g}", f"{rate:.10g}", detail
