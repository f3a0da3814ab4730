"""The prompt of a generation: checked, its padding on the left, its length rounded up to one of a few."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array

from jax_attn.functional.checks import require_integer, require_positive
from jax_attn.models.token_mask import token_mask
from jax_attn.nn.attention.cache import KVCache
from jax_attn.nn.layers.embeddings import require_ids

PROTOCOL = ("init_cache", "decode", "logits")


class _Prompt(NamedTuple):
    """What a generation starts from.

    Attributes:
        ids: `(b, t)`, padding on the left.
        real: `(b, t)`, which of them are no padding.
        tokens: how many new tokens there is room for: `max_new_tokens` or a few more.
        length: how many tokens the cache has to hold.
    """

    ids: np.ndarray
    real: np.ndarray
    tokens: int
    length: int


def prepare(
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    max_new_tokens: int,
    cache: Any,
    needs: tuple[str, ...] = (),
) -> _Prompt:
    """Check what `generate` and `beam_search` are given, before anything is computed.

    Args:
        model: what has the methods of `PROTOCOL`; `vocab_size` and `max_positions` are looked at where it has them.
        input_ids: `(b, t)`.
        attention_mask: `(b, t)` or None.
        max_new_tokens: the most that are to be generated.
        cache: what was seen before the prompt; None is nothing.
        needs: further methods.

    Raises:
        ValueError: what they say.
    """
    missing = [name for name in (*PROTOCOL, *needs) if not hasattr(model, name)]
    if missing:
        raise ValueError(f"model must generate token by token: {type(model).__name__} has no {missing[0]}")
    require_positive("max_new_tokens", require_integer("max_new_tokens", max_new_tokens))
    if isinstance(input_ids, Tracer):
        raise ValueError(
            "generating compiles its own programs: call it outside jax.jit and other transformations"
        )
    ids = jnp.asarray(input_ids)
    require_ids("input_ids", ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"input_ids must have shape (b, t), got {ids.shape}")
    mask = jnp.ones(ids.shape, bool) if attention_mask is None else jnp.asarray(attention_mask)
    ids, real = padded_on_the_left(np.asarray(ids), np.asarray(token_mask(mask, ids.shape)))
    _check_vocabulary(getattr(model, "vocab_size", None), ids[real])
    _check_room(getattr(model, "max_positions", None), cache, ids.shape[1], max_new_tokens)
    if cache is not None:  # its size is known already
        return _Prompt(ids, real, rounded_up(max_new_tokens), 0)
    most = getattr(model, "max_positions", None)
    width = rounded_up(ids.shape[1]) if most is None else min(rounded_up(ids.shape[1]), most)
    missing_columns = ((0, 0), (width - ids.shape[1], 0))
    ids, real = np.pad(ids, missing_columns), np.pad(real, missing_columns)
    tokens = rounded_up(max_new_tokens)
    return _Prompt(ids, real, tokens, width + tokens)


def token_list(name: str, tokens: Any) -> Array:
    """`(n,)`, the ids of a list, or of one token.

    Raises:
        ValueError: they are no integers, or one is negative: it would count from the vocabulary's end.
    """
    ids = np.asarray(tokens).reshape(-1)
    if ids.size and (not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0):
        raise ValueError(f"{name} must be integers from 0 on, got {tokens!r}")
    return jnp.asarray(ids, jnp.int32)


def padded_on_the_left(ids: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of each row at its end, in their order, and no more columns than the longest needs.

    So the vector after the prompt is the last one in every row, wherever the padding stood.
    """
    lengths = real.sum(axis=1)
    if not lengths.all():
        raise ValueError(f"attention_mask must leave a token in each row, got none in row {lengths.argmin()}")
    order = np.argsort(real, axis=1, kind="stable")[:, -lengths.max() :]
    real = np.take_along_axis(real, order, axis=1)
    return np.where(real, np.take_along_axis(ids, order, axis=1), 0), real


def rounded_up(size: int) -> int:
    """The next of 16, 32, 48, 64, 80, 96, 112, 128, 160, ...: at most a quarter more from 64 on.

    >>> [rounded_up(size) for size in (1, 17, 100, 130, 512)]
    [16, 32, 112, 160, 512]
    """
    step = max(16, 2 ** ((size - 1).bit_length() - 3))
    return -(-size // step) * step


def next_logits(model: Any, ids: Any, real: Any, cache: Any) -> tuple[Array, Any]:
    """The scores `(b, vocab_size)` of the token after these, and the new cache. The head sees one vector a row."""
    hidden, cache = model.decode(ids, real, cache=cache)
    return model.logits(hidden[:, -1:])[:, 0], cache


def as_argument(model: Any) -> Any:
    """The model as a program is given it: as a tree, in which a tied weight stands twice.

    To split its graph instead takes ten times as long, which is felt where the text is short. So it is split only
    if it is no tree: if a part has `pytree=False`, or refers to one that it stands in.
    """
    return model if _is_tree(model) else nnx.split(model)


def _is_tree(node: Any, above: frozenset[int] = frozenset()) -> bool:
    """Whether JAX can flatten a model, where `above` are the nodes that it is in."""
    if isinstance(node, nnx.Variable):
        return True
    level = jax.tree_util.default_registry.flatten_one_level(node)
    if level is None:
        return not isinstance(node, nnx.Module)
    path = above | {id(node)}
    return id(node) not in above and all(_is_tree(child, path) for child in level[0])


def without_dropout(argument: Any) -> Any:
    """The model of an `as_argument` inside a program: a copy, so that the user's keeps its mode."""
    model = nnx.merge(*argument) if isinstance(argument, tuple) else argument
    model.eval()
    return model


def _check_vocabulary(vocab_size: int | None, ids: np.ndarray) -> None:
    """Raise ValueError where an id has no vector, which would give NaN."""
    if vocab_size is not None and (ids.min() < 0 or ids.max() >= vocab_size):
        wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise ValueError(f"input_ids must be at least 0 and below vocab_size={vocab_size}, got {wrong}")


def _check_room(most: int | None, cache: Any, prompt: int, new: int) -> None:
    """Raise ValueError where there are more tokens than positions, or than the cache holds.

    The last of the new tokens is not read any more, so it needs no place.
    """
    parts = [leaf for leaf in jax.tree.leaves(cache, is_leaf=_is_cache) if _is_cache(leaf)]
    seen = max((int(part.length.max()) for part in parts), default=0)
    needed = f"{prompt} tokens of the prompt and {new} new ones"
    if most is not None and seen + prompt + new - 1 > most:
        after = f" after {seen} in the cache" if seen else ""
        raise ValueError(f"the model has {most} positions: {needed}{after} do not fit")
    for part in parts:
        size = part.key.shape[-3]  # with layers before, where they are stacked
        if not part.rolling and seen + prompt + new - 1 > size:
            raise ValueError(f"the cache is for {size} tokens: {seen} are in it, and {needed} do not fit")


def _is_cache(node: Any) -> bool:
    return isinstance(node, KVCache)
