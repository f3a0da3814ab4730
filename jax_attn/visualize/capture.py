"""A call of a model, and what its attentions did in it, by their own return on the path that they take."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_attn.nn.attention.weights import CapturedAttention, capture_attention
from jax_attn.visualize.flax_weights import flax_weights_kept
from jax_attn.visualize.record import AttentionLayer, AttentionRecord, AttentionStack, TokenAxis

KINDS = ("encoder", "decoder", "cross", "")  # in the order in which a model has them
Tokens = TokenAxis | Sequence[str] | None


def record_attention(
    model: Callable[..., Any],
    *args: Any,
    tokens: Tokens = None,
    context_tokens: Tokens = None,
    row: int = 0,
    title: str = "",
    image: np.ndarray | None = None,
    other: Mapping[str, Sequence[np.ndarray]] | None = None,
    other_name: str = "torch",
    **kwargs: Any,
) -> AttentionRecord:
    """Call a model once, compiled, and keep the weights, queries and keys of all its attentions.

    >>> record = record_attention(encoder, ids, tokens=["[CLS]", "hello", "[SEP]"])  # doctest: +SKIP

    Args:
        model: a module, or a bound method of one. It is called as it stands, with dropout unless in eval mode.
        args: what it is called with.
        kwargs: what it is called with by name.
        tokens: those that attend to themselves, of `row`; in an encoder-decoder those of the decoder. None numbers
            them.
        context_tokens: those of the encoder of an encoder-decoder.
        row: which sequence of the batch.
        title: of the page; "" is the name of the class.
        image: `(height, width, 3)`, bytes, what the patches are of.
        other: by path, the weights `(B, N, T, S)` of each call of the same attentions in another framework, in the
            order of calls. Where the paths are others, the order decides.
        other_name: the name of that framework.

    Raises:
        ValueError: the model is no module, none of its attentions gives weights, there is no such row, the tokens
            are of another number, or the other framework has other attentions.
    """
    calls = _called(model, args, kwargs)
    others = None if other is None else _paired(calls, other, other_name)
    found: dict[tuple[str, tuple[int, ...]], list[AttentionLayer]] = {}
    for path, captured in calls.items():
        for number, call in enumerate(captured):
            same = None if others is None else others[path][number]
            pattern = re.sub(r"\d+", "*", path)
            shape = call.weights.shape[1:]
            layers = found.setdefault((pattern, shape), [])
            layers.append(_layer(call, len(layers), path, row, same))
    stacks = [
        (pattern, layers, _axes(pattern, layers[0].weights, tokens, context_tokens))
        for (pattern, _), layers in found.items()
    ]
    stacks.sort(key=lambda stack: KINDS.index(_kind(stack[0])))
    names = _names([pattern for pattern, _, _ in stacks])
    return AttentionRecord(
        tuple(
            AttentionStack(name, *axes, tuple(layers))
            for name, (_, layers, axes) in zip(names, stacks, strict=True)
        ),
        title or type(getattr(model, "__self__", model)).__name__,
        image,
        "" if other is None else other_name,
    )


def _called(model: Any, args: Any, kwargs: Any) -> dict[str, list[CapturedAttention]]:
    """What every attention did, by path in the order of layers; stacked layers one by one."""
    module = getattr(model, "__self__", model)
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"model must be an nnx.Module or a method of one, got {type(model).__name__} ({model!r:.60})"
        )
    graphdef, state = nnx.split(module)
    leaves, structure = jax.tree.flatten((args, kwargs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    @jax.jit
    def run(state: Any, arrays: list[Any]) -> Any:
        given = iter(arrays)
        args, kwargs = structure.unflatten(
            next(given) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        )
        copy = nnx.merge(graphdef, state)
        call = copy if module is model else getattr(copy, model.__name__)
        with flax_weights_kept():
            return capture_attention(call)(*args, **kwargs)[1]

    captured = run(state, [leaf for leaf, array in zip(leaves, is_array, strict=True) if array])
    found: dict[str, list[CapturedAttention]] = {}
    for path in sorted(captured, key=_natural):
        for call in captured[path]:
            for place, each in _unstacked(call):
                found.setdefault(path if place is None else f"{path}[{place}]", []).append(each)
    if not found:
        raise ValueError(
            f"no attention of {type(module).__name__} gave weights in this call: they are of "
            "jax_attn.nn, nnx.MultiHeadAttention without an attention_fn, or call "
            "jax_attn.nn.attention.keep_weights"
        )
    return found


def _natural(path: str) -> list[tuple[int, str]]:
    """Numbers count as numbers: layer 2 is before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _unstacked(call: CapturedAttention) -> list[tuple[int | None, CapturedAttention]]:
    """The calls `(B, N, T, S)`; one without heads has one, and a scan over layers made one of many."""
    if call.weights.ndim == 3:
        return [(None, call._replace(weights=call.weights[:, None]))]
    if call.weights.ndim == 4:
        return [(None, call)]
    return [
        (place, jax.tree.map(lambda part, place=place: part[place], call))
        for place in range(len(call.weights))
    ]


def _layer(
    call: CapturedAttention, number: int, path: str, row: int, other: np.ndarray | None
) -> AttentionLayer:
    if not 0 <= row < len(call.weights):
        raise ValueError(f"row must be from 0 to {len(call.weights) - 1}, got {row}")
    weights = np.asarray(call.weights[row], np.float32)
    query, key = (
        None if part is None else np.moveaxis(np.asarray(part[row], np.float32), 1, 0)
        for part in (call.query, call.key)
    )
    if query is None or key is None or len(query) != len(weights):
        query = key = None
    else:
        key = np.repeat(key, len(query) // len(key), axis=0)  # heads that share one
    same = None if other is None else np.asarray(other[row if len(other) > 1 else 0], np.float32)
    return AttentionLayer(number, path, weights, query, key, same)


def _paired(
    calls: Mapping[str, Sequence[CapturedAttention]], other: Mapping[str, Sequence[np.ndarray]], name: str
) -> dict[str, list[np.ndarray]]:
    """The other framework's weights under our paths."""
    theirs = [each for path in sorted(other, key=_natural) for each in other[path]]
    if {path: len(each) for path, each in calls.items()} == {path: len(each) for path, each in other.items()}:
        return {path: list(other[path]) for path in calls}
    ours = sum(map(len, calls.values()))
    if ours != len(theirs):
        raise ValueError(f"{name} must have as many calls of attention as flax, {ours}, got {len(theirs)}")
    rest = iter(theirs)
    return {path: [next(rest) for _ in each] for path, each in calls.items()}


def _axes(
    pattern: str, weights: np.ndarray, tokens: Tokens, context_tokens: Tokens
) -> tuple[TokenAxis, TokenAxis]:
    """The tokens of both axes of a stack: of an encoder-decoder's encoder the context's."""
    _, queries, keys = weights.shape
    kind = _kind(pattern)
    if context_tokens is None:
        first = TokenAxis.of(tokens, queries)
        return first, first if queries == keys else TokenAxis.of(None, keys)
    first = TokenAxis.of(context_tokens if kind == "encoder" else tokens, queries)
    second = first if kind != "cross" else TokenAxis.of(context_tokens, keys)
    return first, second


def _kind(pattern: str) -> str:
    parts = re.split(r"[._]", pattern)
    return next((kind for kind in reversed(KINDS[:3]) if kind in parts), "")


def _names(patterns: list[str]) -> list[str]:
    """What the stacks are called: their kind where one has it alone, else their place."""
    kinds = [_kind(pattern) for pattern in patterns]
    return [
        kind if kind and kinds.count(kind) == 1 else pattern or "attention"
        for kind, pattern in zip(kinds, patterns, strict=True)
    ]
