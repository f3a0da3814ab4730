"""What happens to the scores between the two matrix products, in a form that every implementation can call.

A mod is a Python function that captures arrays. Here it becomes a jaxpr and the arrays it captured, so
that they can be traced, differentiated and changed without compiling again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float, Int

Leaf = Any  # an array (or tree of them), or what a transformation of trees puts in its place


class Program:
    """A jaxpr that equals another with the same text, so that `jax.jit` finds what it has compiled.

    Only where the text says everything. It leaves out the arrays inside a nested `jax.jit` and the rules of a
    custom derivative: a program with any of those equals itself alone.
    """

    def __init__(self, jaxpr: Jaxpr):
        self.jaxpr = jaxpr
        self._text = str(jaxpr) if _text_says_all(jaxpr) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program) or self._text is None:
            return self is other
        return self._text == other._text

    def __hash__(self) -> int:
        return id(self) if self._text is None else hash(self._text)


def _text_says_all(value: Any) -> bool:
    """Whether two jaxprs, or two parameters of an equation, are the same if they are printed the same."""
    if isinstance(value, ClosedJaxpr):
        return not value.consts and _text_says_all(value.jaxpr)
    if isinstance(value, Jaxpr):
        literals = (x for eqn in value.eqns for x in eqn.invars if isinstance(x, Literal))
        if any(np.ndim(x.val) for x in literals):  # a long array is printed abridged
            return False
        if any("custom" in eqn.primitive.name or "callback" in eqn.primitive.name for eqn in value.eqns):
            return False
        return all(_text_says_all(list(eqn.params.values())) for eqn in value.eqns)
    if isinstance(value, dict):
        return _text_says_all(list(value.values()))
    if isinstance(value, list | tuple):
        return all(_text_says_all(item) for item in value)
    if isinstance(value, type | jax.sharding.Mesh):  # a mesh can be called, as a decorator
        return True
    return not (callable(value) or isinstance(value, np.ndarray | jax.Array))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mod:
    """A mod of scalars, and the arrays it captured as leaves of a pytree."""

    captured: Leaf
    program: Program = dataclasses.field(metadata={"static": True})

    def __call__(self, *scalars: Any) -> Array:
        """The mod itself."""
        jaxpr = self.program.jaxpr
        dtypes = (cast(ShapedArray, given.aval).dtype for given in jaxpr.invars)
        values = [jnp.asarray(x, dtype) for x, dtype in zip(scalars, dtypes, strict=True)]
        return eval_jaxpr(jaxpr, self.captured, *values)[0]


def hoist(mod: Callable[..., Array] | None, *leading: Any) -> Mod | None:
    """A `Mod` of `mod(*leading, b, h, q_idx, kv_idx)`; `leading` are the dtypes of what comes first."""
    if mod is None:
        return None
    given = [jax.ShapeDtypeStruct((), dtype) for dtype in (*leading, *[jnp.int32] * 4)]
    closed = jax.make_jaxpr(mod)(*given)
    return Mod([jnp.asarray(x) for x in closed.consts], Program(closed.jaxpr))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """Scores become `score_mod(scores) + bias`, where `mask` and `mask_mod` allow.

    Attributes:
        bias: four axes that broadcast against `(B, N, T, S)`.
        mask: the same, boolean.
        score_mod: a `Mod`, `(score, b, h, q_idx, kv_idx) -> score`.
        mask_mod: a `Mod`, `(b, h, q_idx, kv_idx) -> bool`; full blocks of a block mask do not ask it.
        every_mask_mod: a mask mod that full blocks ask too.
    """

    bias: Leaf = None
    mask: Leaf = None
    score_mod: Leaf = None
    mask_mod: Leaf = None
    every_mask_mod: Leaf = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tile of scores lies: its batch entry, heads and positions."""

    b: Int[Array, ""]
    h: Int[Array, "*heads"]
    q_idx: Int[Array, "q"]
    kv_idx: Int[Array, "s"]


def over_tile(mod: Mod, place: Place, *scores: Float[Array, "*heads q s"]) -> Array:
    """A mod of scalars at every pair of a tile, `(*heads, q, s)`."""
    given = (0,) * len(scores)
    f = jax.vmap(mod.__call__, in_axes=(*given, None, None, None, 0))
    f = jax.vmap(f, in_axes=(*given, None, None, 0, None))
    for _ in range(place.h.ndim):
        f = jax.vmap(f, in_axes=(*given, None, 0, None, None))
    return f(*scores, place.b, place.h, place.q_idx, place.kv_idx)


def modified(
    scores: Float[Array, "*heads q s"], place: Place, score_mod: Mod | None, bias: Float[Array, "..."] | None
) -> Float[Array, "*heads q s"]:
    """`score_mod(scores) + bias`, for a tile."""
    dtype = scores.dtype
    if score_mod is not None:
        scores = over_tile(score_mod, place, scores).astype(dtype)
    return scores if bias is None else scores + bias.astype(dtype)


def split(terms: Terms) -> tuple[tuple[Array | None, list[Array | None]], Terms]:
    """What of the terms has a gradient (bias, floating arrays that the score mod captured), and the rest."""
    if terms.score_mod is None:
        return (terms.bias, []), dataclasses.replace(terms, bias=None)
    captured = terms.score_mod.captured
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in captured]
    moving = [x if yes else None for x, yes in zip(captured, floating, strict=True)]
    still = [None if yes else x for x, yes in zip(captured, floating, strict=True)]
    rest = dataclasses.replace(terms.score_mod, captured=still)
    return (terms.bias, moving), dataclasses.replace(terms, bias=None, score_mod=rest)


def join(moving: tuple[Array | None, list[Array | None]], still: Terms) -> Terms:
    """The inverse of `split`."""
    bias, captured = moving
    if still.score_mod is None:
        return dataclasses.replace(still, bias=bias)
    whole = [x if x is not None else y for x, y in zip(captured, still.score_mod.captured, strict=True)]
    return dataclasses.replace(
        still, bias=bias, score_mod=dataclasses.replace(still.score_mod, captured=whole)
    )
