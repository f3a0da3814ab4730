"""The losses of the routers of a whole model, by layer and name, and what they add to the loss of a training."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_attn.nn.attention.weights import captured, copied


class RouterLosses(NamedTuple):
    """What is added to the loss of a model, each times a small factor, so that the router learns to share out.

    Attributes:
        load_balance: the number of experts of a token if all get as many tokens, more if not; times 1e-2 or so.
        z: mean square of the log-sum-exp of the router's logits; times 1e-3 or so.
    """

    load_balance: Array
    z: Array


class _Kept(nnx.Variable[Any]):
    """The `RouterLosses` of one call of a layer, as `nnx.capture` keeps them."""


def are_kept(module: nnx.Module) -> bool:
    """Whether someone captures the losses of this call."""
    return any(isinstance(kept, _Kept) for kept in getattr(module, "__captures__", ()))


def keep_losses(module: nnx.Module, losses: RouterLosses) -> None:
    """Keep the losses of a call for who captures them."""
    module.sow(_Kept, "losses", losses)


def capture_router_losses(
    model: Callable[..., Any],
) -> Callable[..., tuple[Any, dict[str, tuple[RouterLosses, ...]]]]:
    """Call a model as it is, and get the losses of all its `MixtureOfExperts` too.

    In the loss of a `jax_attn.training.Task`, which is a sum over tokens, beside their number:

    >>> def loss(model, batch):
    ...     run = capture_router_losses(model)
    ...     logits, losses = run(batch["input_ids"], batch["mask"])
    ...     total, tokens = summed_cross_entropy(logits, batch["labels"])
    ...     return total + tokens * router_loss(losses), tokens

    Args:
        model: a module, or a bound method of one.

    Returns:
        a function of the same arguments that returns the output, and by path of each such layer the losses of each
        of its calls; those of stacked layers have a leading axis of layers. Draws of dropout count in the model, as
        in a plain call.
    """

    def call(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, tuple[RouterLosses, ...]]]:
        output, (losses,) = captured(copied(model), (_Kept,), args, kwargs)
        return output, losses

    return call


def router_loss(
    losses: Mapping[str, tuple[RouterLosses, ...]], load_balance: float = 1e-2, z: float = 1e-3
) -> Float[Array, ""]:
    """`Σ (load_balance · L_balance + z · L_z)` over all layers that were captured; 0 where there are none."""
    return sum(
        (
            load_balance * jnp.sum(each.load_balance) + z * jnp.sum(each.z)
            for calls in losses.values()
            for each in calls
        ),
        start=jnp.zeros([]),
    )
