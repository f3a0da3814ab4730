"""Whether two optimizers do the same with any gradients, and not only with those of a training.

A training shows what its gradients are large or small enough for: a clipping at 5 that they never reach is
not seen, nor an eps beside gradients of 1e6. So both optimizers, led by torch, are given gradients of several
sizes, at weights that are all felt. Where they do not do the same, `lint_optimizer` says what differs.
"""

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.training.flax_runner import FlaxRecipe, FlaxTrainer
from jax_attn.parity.training.lint_optimizer import STEPS, Finding, lint_optimizer
from jax_attn.parity.training.measures import update_error
from jax_attn.parity.training.optimizer_probe import draw
from jax_attn.parity.training.torch_runner import TorchRecipe, TorchTrainer

# Sizes at which an eps shows, at which nothing does, and at which clipping does.
SIZES = (1e-6, 1.0, 1e5)

# Of each size, this many steps.
AT_MOST = 4


def differing_settings(flax: FlaxRecipe, torch: TorchRecipe, steps: int, seed: int) -> list[Finding]:
    """What differs; nothing if both do the same with gradients of every size.

    Args:
        flax: what Flax trains, and how.
        torch: the same of torch.
        steps: how many steps the training has; a schedule may end there.
        seed: of the gradients and weights.
    """
    follower = FlaxTrainer(flax, lanes_named(["float64"])[0])
    where = next(
        (size for size in SIZES if not _agree(follower, torch, size, min(steps, AT_MOST), seed)), None
    )
    if where is None:
        return []
    try:
        found = lint_optimizer(
            flax.optimizer, torch.optimizer, clip=(flax.clip, torch.clip), seed=seed, steps=min(steps, STEPS)
        )
    except Exception:  # chains that go by names or shapes, groups that go by the module
        found = []
    return found or [Finding("unknown", f"other updates with gradients of size {where:g}", "its own")]


def _agree(follower: FlaxTrainer, torch: TorchRecipe, size: float, steps: int, seed: int) -> bool:
    """Whether both make the same updates of what both train."""
    leader = TorchTrainer(torch)
    rng = np.random.default_rng([seed, 6])
    values = leader.values()
    follower.start(values)
    for _ in range(steps):
        weights, gradients = (
            {key: draw(rng, array.shape, largest) for key, array in values.items()} for largest in (1.0, size)
        )
        theirs = leader.step_with(weights, gradients)
        ours = follower.step_with(theirs.before, theirs.gradients)
        for key, update in ours.items():
            if key in theirs.gradients and not (
                update_error(update, theirs.updates[key], theirs.before[key]) <= tolerances.UPDATE
            ):
                return False
    return True
