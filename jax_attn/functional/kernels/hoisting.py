"""What a kernel cannot compute of a mod is computed before it and handed over as tables.

A kernel sees tiles of scores, and can do arithmetic on them, but a mod may index any array it captures. So a
mod is traced once, on scalars, and cut in two: whatever touches an array is evaluated outside, by plain JAX
(which also differentiates it), for all positions it depends on; the scalars that come out of it, the
*lookups*, become operands of the kernel; the arithmetic between them stays inside.

The table of a lookup is `(B, N, R, T, S)`, each axis 1 long where the lookup does not depend on it: a slope
for each head, an id for each query, a bias for each pair of positions. A lookup of both positions through
one index into a short axis, such as `table[h, bucket(kv_idx - q_idx)]`, keeps that axis whole, as `R`, so
that its table stays short: the kernel computes the index and picks its entry.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

AXES = ("b", "h", "q_idx", "kv_idx")
LONGEST_AXIS = 256  # a lookup through a longer axis becomes a table of all pairs of positions
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint")


class Lookup(NamedTuple):
    """A scalar that comes from outside.

    Attributes:
        var: the scalar, in the traced mod.
        index: the scalar that picks an entry of axis `R`, or None where there is but one.
        axis_of: which equation and operand `index` stands in, or None.
        depends: those of `AXES` that the table has whole.
        entries: the length of axis `R`.
    """

    var: Any
    index: Any
    axis_of: tuple[int, int] | None
    depends: frozenset[str]
    entries: int


class HoistedMod:
    """A mod as tables and a function of tiles.

    Attributes:
        lookups: what comes from outside, in the order in which it is needed.

    Raises:
        ValueError: the mod indexes an array by the score.
    """

    def __init__(
        self, mod: Callable[..., Array], sizes: tuple[int, int, int, int], score_dtype: Any = None
    ) -> None:
        index = jax.ShapeDtypeStruct((), jnp.int32)
        scores = () if score_dtype is None else (jax.ShapeDtypeStruct((), score_dtype),)
        closed = _inlined(jax.make_jaxpr(mod)(*scores, index, index, index, index))
        jaxpr = closed.jaxpr
        names = (*(("score",) if scores else ()), *AXES)
        self._inputs = dict(zip(names, jaxpr.invars, strict=True))
        self._result = jaxpr.outvars[0]
        self._eqns = list(jaxpr.eqns)
        self._producer = {var: i for i, eqn in enumerate(self._eqns) for var in eqn.outvars}
        self._depends, self._outside = self._analyse(jaxpr)
        self.lookups = tuple(self._lookup(var, sizes) for var in self._crossing())
        self._sizes = sizes
        self._given = dict(zip(jaxpr.constvars, map(jnp.asarray, closed.consts), strict=True))

    def entries(self) -> tuple[int, int]:
        """How many elements the tables have, and how many the arrays that were captured."""
        length = dict(zip(AXES, self._sizes, strict=True))
        tables = (x.entries * math.prod(length[name] for name in x.depends) for x in self.lookups)
        return sum(tables), sum(math.prod(jnp.shape(x)) for x in self._given.values())

    def take_tables(self) -> list[Array]:
        """For each lookup its `(B, N, R, T, S)`; then only kernels call, which must not meet the arrays."""
        given, self._given = self._given, {}
        return [self._table(lookup, given, self._sizes) for lookup in self.lookups]

    def _analyse(self, jaxpr: Any) -> tuple[dict[Any, frozenset[str]], set[Any]]:
        """Which inputs each value depends on, and which values touch an array."""
        depends = {var: frozenset({name}) for name, var in self._inputs.items()}
        depends |= {var: frozenset() for var in jaxpr.constvars}
        outside = set(jaxpr.constvars)
        for eqn in self._eqns:
            sources = [x for x in eqn.invars if not isinstance(x, Literal)]
            union = frozenset().union(*(depends[x] for x in sources))
            arrays = any(x.aval.shape for x in (*eqn.invars, *eqn.outvars))
            if arrays and "score" in union:
                raise ValueError(
                    "score_mod must not index an array by the score, nor make an array of it, to run in a "
                    f"kernel; it does in {eqn.primitive.name}"
                )
            depends |= dict.fromkeys(eqn.outvars, union)
            if arrays:
                outside.update(eqn.outvars)
        return depends, outside

    def _crossing(self) -> list[Any]:
        """The scalars from outside that the inside uses."""
        used = [
            x for eqn in self._eqns if not self._outside.intersection(eqn.outvars) for x in eqn.invars
        ] + [self._result]
        crossing = (x for x in used if not isinstance(x, Literal) and x in self._outside)
        return list(dict.fromkeys(crossing))

    def _lookup(self, var: Any, sizes: tuple[int, int, int, int]) -> Lookup:
        """The shortest way to bring a scalar in."""
        length = dict(zip(AXES, sizes, strict=True))
        depends = self._depends[var]
        found = [Lookup(var, None, None, depends, 1)]
        number = self._slice_of(var)
        if number is None or not depends >= {"q_idx", "kv_idx"}:
            return found[0]

        def positions(lookup: Lookup) -> int:
            own = {"q_idx", "kv_idx"} & lookup.depends
            return lookup.entries * math.prod(length[name] for name in own)

        operand, *indices = self._eqns[number].invars
        for place, index in enumerate(indices):
            others = [x for i, x in enumerate((operand, *indices)) if i != place + 1]
            rest = frozenset().union(*(self._depends_of(x) for x in others))
            inside = not isinstance(index, Literal) and index not in self._outside
            entries = operand.aval.shape[place]
            if inside and entries <= LONGEST_AXIS and not rest >= {"q_idx", "kv_idx"}:
                found.append(Lookup(var, index, (number, place + 1), rest, entries))
        return min(found, key=positions)

    def _depends_of(self, x: Any) -> frozenset[str]:
        return frozenset() if isinstance(x, Literal) else self._depends[x]

    def _slice_of(self, var: Any) -> int | None:
        """The equation that takes one element of an array, if that is where `var` comes from."""
        number = self._producer.get(var)
        while number is not None and self._eqns[number].primitive.name in ("squeeze", "reshape"):
            number = self._producer.get(self._eqns[number].invars[0])
        if number is None or self._eqns[number].primitive.name != "dynamic_slice":
            return None
        return number if set(self._eqns[number].params["slice_sizes"]) == {1} else None

    def _table(self, lookup: Lookup, given: dict[Any, Array], sizes: tuple[int, int, int, int]) -> Array:
        """The lookup for all positions it depends on, `(B, N, R, T, S)`."""
        length = dict(zip(AXES, sizes, strict=True))
        shape = tuple(length[name] if name in lookup.depends else 1 for name in AXES)
        shape = (*shape[:2], lookup.entries, *shape[2:])
        table = self._by_axis(lookup, given, length)
        if table is None:
            table = self._by_element(lookup, given, shape)
        if jnp.issubdtype(table.dtype, jnp.floating):
            return table.reshape(shape).astype(jnp.promote_types(table.dtype, jnp.float32))
        return table.reshape(shape).astype(jnp.int32)

    def _by_axis(self, lookup: Lookup, given: dict[Any, Array], length: dict[str, int]) -> Array | None:
        """The table by one `take` for each axis of the array, or none where a position is the index itself.

        None where the array or an index is no function of one position.
        """
        number = self._slice_of(lookup.var)
        if number is None or self._depends_of(self._eqns[number].invars[0]):
            return None
        operand, *indices = self._eqns[number].invars
        names: list[str] = []  # what each axis that is left runs over
        takes: list[Any] = []
        for axis, index in enumerate(indices):
            if lookup.axis_of == (number, axis + 1):
                names.append("entry")
                takes.append(None)
                continue
            depends = self._depends_of(index)
            if len(depends) > 1 or depends & set(names):
                return None
            names.append(next(iter(depends), ""))
            takes.append(index)

        table = self._value(operand, dict(given), _bind, {})
        for axis, (name, index) in enumerate(zip(names, takes, strict=True)):
            if index is None:
                continue
            if name and table.shape[axis] == length[name] and self._is_position(index, name):
                continue

            def at(position: Array, name: str = name, index: Any = index) -> Array:
                env = dict(given) | ({self._inputs[name]: position} if name else {})
                return jnp.asarray(self._value(index, env, _bind, {}))

            positions = jnp.arange(length[name] if name else 1, dtype=jnp.int32)
            table = jnp.take(table, jax.vmap(at)(positions), axis=axis, mode="clip")
        order = [names.index(name) for name in ("b", "h", "entry", "q_idx", "kv_idx") if name in names]
        return table.transpose(*order, *(axis for axis in range(table.ndim) if axis not in order))

    def _is_position(self, index: Any, name: str) -> bool:
        """Whether an index is a position as it stands, but for the question whether it is negative."""
        if index is self._inputs[name]:
            return True
        number = self._producer.get(index)
        if number is None or self._eqns[number].primitive.name != "select_n":
            return False
        negative, otherwise, _ = self._eqns[number].invars
        asked = self._producer.get(negative) if not isinstance(negative, Literal) else None
        return (
            otherwise is self._inputs[name]
            and asked is not None
            and self._eqns[asked].primitive.name == "lt"
            and self._eqns[asked].invars[0] is otherwise
            and isinstance(self._eqns[asked].invars[1], Literal)
            and bool(self._eqns[asked].invars[1].val == 0)
        )

    def _by_element(self, lookup: Lookup, given: dict[Any, Array], shape: tuple[int, ...]) -> Array:
        """The table by the mod's own equations at each place."""

        def at(b: Array, h: Array, entry: Array, q_idx: Array, kv_idx: Array) -> Array:
            place = dict(zip(AXES, (b, h, q_idx, kv_idx), strict=True))
            env = dict(given) | {self._inputs[name]: x for name, x in place.items()}
            replace = {} if lookup.axis_of is None else {lookup.axis_of: entry}
            return self._value(lookup.var, env, _bind, replace)

        for axis in range(4, -1, -1):
            at = jax.vmap(at, in_axes=tuple(0 if other == axis else None for other in range(5)))
        return at(*(jnp.arange(size, dtype=jnp.int32) for size in shape))

    def _value(
        self, var: Any, env: dict[Any, Any], bind: Callable[..., list[Any]], replace: dict[Any, Any]
    ) -> Any:
        """The value of `var`: what it needs is computed on the way, and kept in `env`."""
        if isinstance(var, Literal):
            return var.val
        if var not in env:
            number = self._producer[var]
            eqn = self._eqns[number]
            operands = [
                replace[number, i] if (number, i) in replace else self._value(x, env, bind, replace)
                for i, x in enumerate(eqn.invars)
            ]
            env |= dict(zip(eqn.outvars, bind(eqn, *operands), strict=True))
        return env[var]

    def look_up(
        self, place: dict[str, Array], read: Callable[[int, Array | None], Array]
    ) -> tuple[list[Array], list[Array | None]]:
        """The tiles of all lookups, and the tiles of their indices.

        Args:
            place: for each of `AXES` a tile of positions.
            read: from a lookup's number and the tile of its index to its tile.
        """
        env = {self._inputs[name]: x for name, x in place.items()}
        tiles, indices = [], []
        for number, lookup in enumerate(self.lookups):
            index = None
            if lookup.index is not None:
                index = jnp.clip(self._value(lookup.index, env, _bind_tiles, {}), 0, lookup.entries - 1)
            tile = read(number, index)
            env[lookup.var] = _as(tile, lookup.var.aval.dtype)
            tiles.append(tile)
            indices.append(index)
        return tiles, indices

    def __call__(self, place: dict[str, Array], tiles: Iterable[Array], score: Array | None = None) -> Array:
        """The mod on a tile."""
        env = {self._inputs[name]: x for name, x in place.items()}
        if score is not None:
            env[self._inputs["score"]] = score
        env |= {
            lookup.var: _as(tile, lookup.var.aval.dtype)
            for lookup, tile in zip(self.lookups, tiles, strict=True)
        }
        result = self._value(self._result, env, _bind_tiles, {})
        return jnp.broadcast_to(result, place["q_idx"].shape)


def _as(tile: Array, dtype: Any) -> Array:
    return tile != 0 if dtype == jnp.bool_ else tile.astype(dtype)


def _bind(eqn: Any, *operands: Any) -> list[Any]:
    """An equation on values of the shapes it was traced with."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]


def _bind_tiles(eqn: Any, *operands: Any) -> list[Any]:
    """An equation of scalars, on tiles (and scalars, which have no axes)."""
    axes = tuple(0 if jnp.ndim(x) else None for x in operands)
    if not any(axis == 0 for axis in axes):
        return _bind(eqn, *operands)
    over_rows = jax.vmap(lambda *xs: _bind(eqn, *xs), in_axes=axes)
    return jax.vmap(over_rows, in_axes=axes)(*operands)


def _inlined(closed: Any) -> Any:
    """The same jaxpr without calls inside it, but for those that bring their own derivative."""

    def run(jaxpr: Any, consts: Iterable[Any], *operands: Any) -> list[Any]:
        env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, operands, strict=True))
        for eqn in jaxpr.eqns:
            values = [x.val if isinstance(x, Literal) else env[x] for x in eqn.invars]
            if eqn.primitive.name in _CALLS:
                inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
                results = run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), *values)
            else:
                results = _bind(eqn, *values)
            env |= dict(zip(eqn.outvars, results, strict=True))
        return [x.val if isinstance(x, Literal) else env[x] for x in jaxpr.outvars]

    inputs = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *xs: run(closed.jaxpr, closed.consts, *xs))(*inputs)
