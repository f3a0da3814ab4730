"""Counts the FLOPs of a function: its matrix products and convolutions, as they run.

XLA's own count (`cost_analysis`) takes the body of a loop once, whatever its length. This one reads the traced
program: a body counts as often as it runs. A product of `(m, k)` and `(k, n)` is `2mkn`; additions, exponentials
and the like are left out, as in the usual definition of model FLOPs utilisation (MFU).

What counts how:
  scan, fori_loop     the body times the length; other while loops once, and `notes` says so
  cond                the branch that costs most
  remat               what the backward pass computes again counts, in `recomputed` too: MFU takes it off
  shard_map           the body times the devices that run it
  pallas_call         the body times the grid
  attention           all pairs of queries and keys, masked or not, in whatever implementation; its backward pass
                      twice the forward one: the same as for the whole matrix of scores

Source: Chowdhery et al., "PaLM" (arXiv 2204.02311), appendix B.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jax_attn.functional.blockwise.attention import attention_p, gradient_p, tangent_p
from jax_attn.training.sizing.module_scopes import module_of, module_scopes

RECOMPUTED = "rematted_computation"  # the scope in which JAX's remat computes again


@dataclass(frozen=True)
class FlopCount:
    """The FLOPs of one call, on all devices together.

    Attributes:
        total: all of them.
        by_module: those of each submodule by its path, without those of the submodules in it; the empty path has
            what is outside all of them. They add up to `total`.
        recomputed: those of the total that remat computes a second time.
        wide: those of the total whose operands are float32 or wider.
        notes: what could not be counted right, such as a loop whose length depends on data.
    """

    total: int
    by_module: Mapping[str, int] = field(default_factory=dict)
    recomputed: int = 0
    wide: int = 0
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> int:
        """Without what is computed again: the numerator of MFU."""
        return self.total - self.recomputed

    def to_depth(self, depth: int) -> dict[str, int]:
        """By module, those deeper than `depth` parts of a path added to what they are in, the largest first.

        Layers of a list count together, as those of a scanned stack do: their numbers are left out.
        """
        found: Counter[str] = Counter()
        for path, flops in self.by_module.items():
            parts = [part for part in path.split(".") if not part.isdigit()]
            found[".".join(parts[:depth])] += flops
        return dict(found.most_common())


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> FlopCount:
    """Return the FLOPs of `function(*args, **kwargs)`, which is traced and not run.

    >>> count_flops(lambda x: x @ x, jax.ShapeDtypeStruct((3, 3), "float32")).total
    54

    Args:
        function: takes arrays, modules and trees of them; compiled or not.
        args: its arguments, or in their place `jax.ShapeDtypeStruct`.
        kwargs: the same, by name.
    """
    # A module as an argument of JAX's own is a tree, in which what is shared stands twice: it is split and merged.
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_module)
    split = [nnx.split(leaf) if _is_module(leaf) else (None, leaf) for leaf in leaves]

    def merged(given: list[Any]) -> Any:
        pairs = zip(split, given, strict=True)
        whole = [x if graphdef is None else nnx.merge(graphdef, x) for (graphdef, _), x in pairs]
        args, kwargs = jax.tree.unflatten(tree, whole)
        return jax.tree.map(
            lambda x: None if _is_module(x) else x, function(*args, **kwargs), is_leaf=_is_module
        )

    with module_scopes():
        jaxpr = jax.make_jaxpr(merged)([state for _, state in split])
    return count_jaxpr(jaxpr)


def _is_module(node: Any) -> bool:
    return isinstance(node, nnx.Module)


def count_jaxpr(jaxpr: ClosedJaxpr | Jaxpr) -> FlopCount:
    """Return the FLOPs of a traced program; by module, where it was traced within `module_scopes`."""
    counting = _Counting()
    found = counting.of(_open(jaxpr), "", False)
    by_module: Counter[str] = Counter()
    for (path, _, _), flops in found.items():
        by_module[path] += flops
    return FlopCount(
        sum(found.values()),
        dict(by_module.most_common()),
        sum(flops for (_, again, _), flops in found.items() if again),
        sum(flops for (*_, wide), flops in found.items() if wide),
        tuple(dict.fromkeys(counting.notes)),
    )


# FLOPs by module, by whether they are computed again, and by whether they are of float32 or wider.
Found = Counter[tuple[str, bool, bool]]


class _Counting:
    """One count; a jaxpr that stands in several places is read once for each module that it stands in."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._read: dict[tuple[int, str, bool], Found] = {}

    def of(self, jaxpr: Jaxpr, path: str, again: bool) -> Found:
        key = (id(jaxpr), path, again)
        if key not in self._read:
            found: Found = Counter()
            for equation in jaxpr.eqns:
                stack = str(equation.source_info.name_stack)
                module = module_of(stack)
                inside = (path if module is None else module, again or RECOMPUTED in stack)
                for each, flops in self._of_equation(equation, *inside).items():
                    found[each] += flops
            self._read[key] = found
        return self._read[key]

    def _of_equation(self, equation: JaxprEqn, path: str, again: bool) -> Found:
        if count := PRODUCTS.get(equation.primitive.name):
            avals: list[Any] = [operand.aval for operand in equation.invars[:2]]
            wide = min(aval.dtype.itemsize for aval in avals) >= 4
            return Counter({(path, again, wide): count(equation)})
        bodies = [(times, self.of(body, path, again)) for times, body in self._bodies(equation)]
        if equation.primitive.name == "cond":
            return max((found for _, found in bodies), key=lambda found: sum(found.values()))
        total: Found = Counter()
        for times, found in bodies:
            for each, flops in found.items():
                total[each] += times * flops
        return total

    def _bodies(self, equation: JaxprEqn) -> Iterator[tuple[int, Jaxpr]]:
        """The programs inside an operation, each with how often it runs."""
        params, times = equation.params, 1
        match equation.primitive.name:
            case "scan":
                times = params["length"]
            case "shard_map":
                axes = params.get("newly_manual_axes", params.get("manual_axes", ()))
                times = math.prod(params["mesh"].shape[axis] for axis in axes)
            case "pallas_call":
                times = self._turns_of_grid(params["grid_mapping"].grid)
            case "while":
                yield from self._of_while(equation)
                return
        for value in params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, ClosedJaxpr | Jaxpr):
                    yield times, _open(each)

    def _of_while(self, equation: JaxprEqn) -> Iterator[tuple[int, Jaxpr]]:
        body = _open(equation.params["body_jaxpr"])
        turns = _turns(equation)
        if turns is None:
            if self.of(body, "", False):
                self.notes.append("a while loop whose length depends on data was counted once")
            turns = 1
        yield turns, body
        yield turns + 1, _open(equation.params["cond_jaxpr"])

    def _turns_of_grid(self, grid: Iterable[Any]) -> int:
        sizes = list(grid)
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) < len(sizes):
            self.notes.append("a kernel's grid that depends on data was counted once along that axis")
        return math.prod(known)


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _turns(equation: JaxprEqn) -> int | None:
    """How often `while i < n: i += 1` runs, where both ends are constants; else None."""
    params = equation.params
    condition, body = _open(params["cond_jaxpr"]), _open(params["body_jaxpr"])
    given, carried = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    if [each.primitive.name for each in condition.eqns] != ["lt"]:
        return None
    operands = [*equation.invars[:given], *equation.invars[carried:]]
    first, last = condition.eqns[0].invars

    def position(variable: Any) -> int | None:
        return condition.invars.index(variable) if variable in condition.invars else None

    def value(variable: Any) -> int | None:
        if not isinstance(variable, Literal):
            at = position(variable)
            variable = None if at is None else operands[at]
        return int(variable.val) if isinstance(variable, Literal) else None

    def step(at: int) -> int | None:
        """What a turn adds to a carried number; 0 where it stays."""
        before, after = body.invars[params["body_nconsts"] + at - given], body.outvars[at - given]
        if before is after:
            return 0
        made = next((each for each in body.eqns if after in each.outvars), None)
        if made is None or made.primitive.name != "add" or made.invars[0] is not before:
            return None
        return int(made.invars[1].val) if isinstance(made.invars[1], Literal) else None

    start, end = value(first), value(last)
    at, bound = (None if isinstance(each, Literal) else position(each) for each in (first, last))
    if start is None or end is None or at is None or at < given or step(at) != 1:
        return None
    if bound is not None and bound >= given and step(bound) != 0:
        return None
    return max(0, end - start)


# Each product's FLOPs.


def _shapes(equation: JaxprEqn) -> list[tuple[int, ...]]:
    return [_shape(each.aval) for each in equation.invars]


def _shape(aval: Any) -> tuple[int, ...]:
    return aval.shape if isinstance(aval, ShapedArray) else aval.inner_aval.shape


def _dot_general(equation: JaxprEqn) -> int:
    left, right = _shapes(equation)
    (_, contracted), (_, batch) = equation.params["dimension_numbers"]
    return 2 * math.prod(left) * math.prod(_without(right, (*contracted, *batch)))


def _ragged_dot(equation: JaxprEqn) -> int:
    """Each row meets the matrix of its group alone."""
    left, right, *_ = _shapes(equation)
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    return (
        2 * math.prod(left) * math.prod(_without(right, (*contracted, *batch, *numbers.rhs_group_dimensions)))
    )


def _convolution(equation: JaxprEqn) -> int:
    """Of the zeros that a dilation puts between the inputs, as the gradient of a stride does, nothing."""
    kernel, numbers = _shapes(equation)[1], equation.params["dimension_numbers"]
    out = math.prod(_shape(equation.outvars[0].aval))
    return (
        2
        * out
        * math.prod(_without(kernel, numbers.rhs_spec[:1]))
        // math.prod(equation.params["lhs_dilation"])
    )


def _without(shape: Iterable[int], axes: Iterable[int]) -> list[int]:
    dropped = set(axes)
    return [size for axis, size in enumerate(shape) if axis not in dropped]


def _attention(passes: int) -> Callable[[JaxprEqn], int]:
    """Two products, of queries and keys and of weights and values; the gradient has two for each."""

    def count(equation: JaxprEqn) -> int:
        query, key, value = _shapes(equation)[:3]
        *batch, queries, heads, width = query
        pairs = math.prod(batch) * queries * heads * key[-3]
        return 2 * passes * pairs * (width + value[-1])

    return count


PRODUCTS: dict[str, Callable[[JaxprEqn], int]] = {
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
    attention_p.name: _attention(1),
    tangent_p.name: _attention(2),
    gradient_p.name: _attention(2),
}
