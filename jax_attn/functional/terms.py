"""What happens to the scores between the two matrix products, in a form that every implementation can call.

A mod is a Python function that captures arrays. Here it becomes a jaxpr and the arrays it captured, so
that they can be traced, differentiated and changed without compiling again.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import AbstractMesh, AxisType
from jaxtyping import Array

from jax_attn.functional.dropout import Dropout
from jax_attn.functional.mods import arrays_by_entry, evaluated

Leaf = Any  # an array (or tree of them), or what a transformation of trees puts in its place


class Program:
    """What a mod computes, of the arrays that it captured and its scalars, in this order: no array is in it.

    It equals another with the same text, so that `jax.jit` finds what it has compiled; but only where the text says
    everything. It leaves out the arrays inside a nested `jax.jit` and the rules of a custom derivative: a program
    with any of those equals itself alone.
    """

    def __init__(self, closed: ClosedJaxpr):
        jaxpr = closed.jaxpr
        self.jaxpr = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
        self._text = str(self.jaxpr) if _text_says_all(self.jaxpr) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program) or self._text is None:
            return self is other
        return self._text == other._text

    def __hash__(self) -> int:
        return id(self) if self._text is None else hash(self._text)


def _text_says_all(value: Any) -> bool:
    """Whether two jaxprs, or two parameters of an equation, are the same if they are printed the same."""
    if isinstance(value, ClosedJaxpr | Jaxpr):  # from JAX 0.12 on the two are one
        if getattr(value, "consts", ()):
            return False
        eqns = (value.jaxpr if isinstance(value, ClosedJaxpr) else value).eqns
        literals = (x for eqn in eqns for x in eqn.invars if isinstance(x, Literal))
        if any(np.ndim(x.val) for x in literals):  # a long array is printed abridged
            return False
        if any("custom" in eqn.primitive.name or "callback" in eqn.primitive.name for eqn in eqns):
            return False
        return all(_text_says_all(list(eqn.params.values())) for eqn in eqns)
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

    def by_entry(self, batch: int) -> list[bool]:
        """Which captured arrays are read by each of `batch` entries in its own row alone."""
        rows = arrays_by_entry(self.program.jaxpr, len(self.captured))
        return [alone and x.shape[:1] == (batch,) for alone, x in zip(rows, self.captured, strict=True)]

    def with_captured(self, captured: Leaf) -> "Mod":
        """The same program with other arrays."""
        return dataclasses.replace(self, captured=captured)

    def __call__(self, *scalars: Any) -> Array:
        """The mod itself."""
        jaxpr = self.program.jaxpr
        expected = jaxpr.invars[len(self.captured) :]
        dtypes = (cast(ShapedArray, given.aval).dtype for given in expected)
        values = [jnp.asarray(x, dtype) for x, dtype in zip(scalars, dtypes, strict=True)]
        if _in_shard_map():
            return evaluated(jaxpr, *self.captured, *values)[0]
        return eval_jaxpr(jaxpr, (), *self.captured, *values)[0]


def hoist(mod: Callable[..., Array] | None, *leading: Any) -> Mod | None:
    """A `Mod` of `mod(*leading, b, h, q_idx, kv_idx)`; `leading` are the dtypes of what comes first."""
    if mod is None:
        return None
    given = [jax.ShapeDtypeStruct((), dtype) for dtype in (*leading, *[jnp.int32] * 4)]
    closed = jax.make_jaxpr(mod)(*given)
    captured = [jnp.asarray(x) for x in closed.consts]
    if _in_shard_map():  # the program is to be that of arrays that vary over no devices
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in captured]
        with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
            closed = jax.make_jaxpr(partial(evaluated, closed.jaxpr))(*shapes, *given)
    return Mod(captured, Program(closed))


def _in_shard_map() -> bool:
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """Scores become `score_mod(softcap(scores)) + bias`, where all of the masks allow; weights may be dropped.

    What comes as an array broadcasts against `(B, N, T, S)` and is cut into tiles; only what a user's mod captured
    is indexed. (An index into a sharded array would gather it.)

    Attributes:
        bias: an array to add.
        mask: a boolean array.
        query_seq_lengths, key_value_seq_lengths: `(B, 1, 1, 1)`.
        segment_ids: `(B, 1, T, 1)` of queries and `(B, 1, 1, S)` of keys.
        score_mod: a `Mod`, `(score, b, h, q_idx, kv_idx) -> score`.
        mask_mod: a `Mod`, `(b, h, q_idx, kv_idx) -> bool`; full blocks of a block mask do not ask it.
        dropout: what is dropped of the weights.
        band: how many positions before and after its own a query sees; None is no limit. Full blocks do not ask.
        softcap: a number.
        origin: four integers, where batch entries, heads, queries and keys are counted from by mods and dropout, of
            which none is told that the arrays are parts of larger ones; None is 0.
    """

    bias: Leaf = None
    mask: Leaf = None
    query_seq_lengths: Leaf = None
    key_value_seq_lengths: Leaf = None
    segment_ids: tuple[Leaf, Leaf] | None = None
    score_mod: Mod | None = None
    mask_mod: Mod | None = None
    dropout: Dropout | None = None
    origin: Leaf = None
    band: tuple[int | None, int | None] = dataclasses.field(default=(None, None), metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def map_arrays(self, f: Callable[[Array], Array]) -> "Terms":
        """The terms with `f` of each array that broadcasts against the scores."""
        names = ("bias", "mask", "query_seq_lengths", "key_value_seq_lengths", "segment_ids")
        return dataclasses.replace(self, **{name: jax.tree.map(f, getattr(self, name)) for name in names})


Differentiable = tuple[Array | None, list[Array | None]]  # bias, floating arrays that the score mod captured


def partition(terms: Terms) -> tuple[Differentiable, Terms]:
    """What of the terms has a gradient, and the rest."""
    if terms.score_mod is None:
        return (terms.bias, []), dataclasses.replace(terms, bias=None)
    captured = terms.score_mod.captured
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in captured]
    differentiable = [x if yes else None for x, yes in zip(captured, floating, strict=True)]
    constant = [None if yes else x for x, yes in zip(captured, floating, strict=True)]
    rest = dataclasses.replace(terms.score_mod, captured=constant)
    return (terms.bias, differentiable), dataclasses.replace(terms, bias=None, score_mod=rest)


def combine(differentiable: Differentiable, constant: Terms) -> Terms:
    """The inverse of `partition`."""
    bias, captured = differentiable
    score_mod = constant.score_mod
    if score_mod is not None:
        whole = [x if x is not None else y for x, y in zip(captured, score_mod.captured, strict=True)]
        score_mod = dataclasses.replace(score_mod, captured=whole)
    return dataclasses.replace(constant, bias=bias, score_mod=score_mod)
