"""The attention weights of a whole model, by layer and name, and what they are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array


class AttentionWeights(nnx.Variable[Any]):
    """The weights of one call of an attention, `(B, N, T, S)`, as `nnx.capture` keeps them."""


class ScoredQuery(nnx.Variable[Any]):
    """The queries of one call, `(B, T, N, H)`: normalised, rotated and times the scale."""


class ScoredKey(nnx.Variable[Any]):
    """The keys of one call, `(B, S, K, H)`: normalised and rotated."""


class CapturedAttention(NamedTuple):
    """One call of an attention. Stacked layers have a leading axis of layers everywhere.

    Attributes:
        weights: `(B, N, T, S)`.
        query: `(B, T, N, H)`, times the scale, so that its product with a key is the score, but for what positions,
            a `score_mod` or a bias add to it; None of an attention whose scores are no such product.
        key: `(B, S, K, H)`, where `N / K` heads share one; None likewise.
    """

    weights: Array
    query: Array | None
    key: Array | None


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
        output, (weights,) = captured(copied(model), (AttentionWeights,), args, kwargs)
        found: dict[str, Any] = {
            path: calls[0] if len(calls) == 1 else calls for path, calls in weights.items()
        }
        return output, found

    return call


def capture_attention(
    model: Callable[..., Any],
) -> Callable[..., tuple[Any, dict[str, tuple[CapturedAttention, ...]]]]:
    """As `capture_attention_weights`, with the queries and keys, and all calls of each attention in a tuple."""

    def call(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, tuple[CapturedAttention, ...]]]:
        output, (weights, *vectors) = captured(
            copied(model), (AttentionWeights, ScoredQuery, ScoredKey), args, kwargs
        )
        return output, {
            path: tuple(
                map(CapturedAttention, calls, *(each.get(path, (None,) * len(calls)) for each in vectors))
            )
            for path, calls in weights.items()
        }

    return call


def keep_scored(module: nnx.Module, query: Array, key: Array, scale: float | None) -> None:
    """Keep what the scores of a call are products of for who captures it, if anyone does."""
    if any(isinstance(kept, ScoredQuery) for kept in getattr(module, "__captures__", ())):
        module.sow(ScoredQuery, "query", query * (query.shape[-1] ** -0.5 if scale is None else scale))
        module.sow(ScoredKey, "key", key)


def captured(
    model: Callable[..., Any], kinds: tuple[type[nnx.Variable[Any]], ...], args: Any, kwargs: Any
) -> tuple[Any, list[dict[str, tuple[Any, ...]]]]:
    """The output, and of each kind by path what every call kept. The model has to be `copied`."""

    def call(module: nnx.Module) -> Any:
        # A list keeps nothing, and JAX cannot sort a word among its numbers when a loop splits and merges it.
        for _, node in nnx.iter_modules(module):
            if isinstance(node, nnx.List) and hasattr(node, "__captures__"):
                delattr(node, "__captures__")
        return model(*args, **kwargs)

    capturing: Callable[..., Any] = nnx.capture(call, *kinds)
    output, *states = capturing(getattr(model, "__self__", model))
    return output, [
        {".".join(map(str, path[:-1])): variable.get_value() for path, variable in nnx.to_flat_state(state)}
        for state in states
    ]


def copied(model: Any) -> Any:
    """The module, or the bound method of it, of the same variables, in a tree to which captures may be tied."""
    if isinstance(model, nnx.Module):
        return nnx.merge(*nnx.split(model))
    return getattr(copied(model.__self__), model.__name__)
