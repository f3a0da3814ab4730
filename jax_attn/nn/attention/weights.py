"""The attention weights of a whole model, by layer and name."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array


class AttentionWeights(nnx.Variable[Any]):
    """The weights of one call of an attention, `(B, N, T, S)`, as `nnx.capture` keeps them."""


def sees_weights(module: nnx.Module) -> bool:
    """Whether someone captures the attention weights of this call."""
    captures = getattr(module, "__captures__", ())
    return any(isinstance(kept, AttentionWeights) for kept in captures)


def keep_weights(module: nnx.Module, weights: Array) -> None:
    """Keep the attention weights of a call for who captures them, if anyone does."""
    if sees_weights(module):
        module.sow(AttentionWeights, "weights", weights)


def capture_attention_weights(model: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, Array]]]:
    """Call a model as it is, and get the weights of all its attentions too.

    >>> output, weights = capture_attention_weights(encoder)(x)
    >>> weights["layers.0.attention"].shape
    (3, 2, 5, 5)

    Args:
        model: a module, or a bound method of one; what is called is a copy with the same arrays.

    Returns:
        a function of the same arguments that returns the output, and by path of each attention that was called its
        weights `(B, N, T, S)`; a stacked layer's have a leading axis of layers. An attention that was called more
        than once has a tuple of them.
    """

    def call(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Array]]:
        output, captured = nnx.capture(_copied(model), AttentionWeights)(*args, **kwargs)
        found: dict[str, Any] = {}
        for path, variable in nnx.to_flat_state(captured):
            values = variable.get_value()
            found[".".join(map(str, path[:-1]))] = values[0] if len(values) == 1 else values
        return output, found

    return call


def _copied(model: Any) -> Any:
    """The module, or the bound method of it, in a tree of its own, to which captures may be tied."""
    if isinstance(model, nnx.Module):
        return nnx.merge(*nnx.split(model))
    return getattr(_copied(model.__self__), model.__name__)
