"""What a mod is: a Python function of scalars, whose program is looked at before it is used.

A *mask mod* is `(b, h, q_idx, kv_idx) -> bool`, a *score mod* `(score, b, h, q_idx, kv_idx) -> score`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array

from jax_attn.functional.sharding import varying, vma

# Calls whose inner program takes and returns what they do, one by one.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
NOTHING: frozenset[int] = frozenset()
NO_CUSTOM = (
    "a mod that captured what varies over devices cannot have a custom derivative (jax.custom_jvp, as jax.nn.relu "
    "has) within jax.shard_map: take another function, or shard_map with check_vma=False"
)


def check_mask_mod(mask_mod: Callable[..., Array]) -> ClosedJaxpr:
    """Return the program of `mask_mod`; raise ValueError unless it makes one boolean of four integers."""
    return check_mod("mask_mod(b, h, q_idx, kv_idx)", mask_mod, jnp.bool_)


def check_score_mod(score_mod: Callable[..., Array], dtype: Any) -> ClosedJaxpr:
    """Return the program of `score_mod`; raise ValueError unless it makes a number of one and four integers."""
    score = jax.ShapeDtypeStruct((), dtype)
    return check_mod("score_mod(score, b, h, q_idx, kv_idx)", score_mod, jnp.floating, score)


def check_mod(
    call: str, mod: Callable[..., Array], result: Any, *leading: jax.ShapeDtypeStruct
) -> ClosedJaxpr:
    """Return the program of `mod`; raise ValueError unless it makes a scalar of scalars.

    Args:
        call: how the mod is called, for the message.
        mod: a function of `leading` and four integers.
        result: the kind of dtype that it has to return.
        leading: shapes and dtypes of what comes before the integers.
    """
    index = jax.ShapeDtypeStruct((), jnp.int32)
    expected = f"{call} must map scalars to one {jnp.dtype(result).name if result is jnp.bool_ else 'number'}"
    try:
        program, out = jax.make_jaxpr(mod, return_shape=True)(*leading, index, index, index, index)
    except (TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{expected}; calling it failed: {error}") from error
    except Exception as error:
        if type(error).__name__ != "ShardingTypeError":  # JAX hands it out under no public name
            raise
        raise ValueError(
            f"{call} indexes an array that is sharded over a mesh of explicit axes, which JAX refuses: give "
            "dot_product_attention segment_ids or key_value_seq_lengths instead, reshard the array to be whole on "
            f"each device, or take a mesh of automatic axes. JAX: {error}"
        ) from error
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, result):
        raise ValueError(f"{expected}, got {out}")
    return program


def check_axes(program: ClosedJaxpr, remedies: Mapping[str, str | None]) -> None:
    """Raise ValueError where a mask for all entries of an axis comes from a mask mod that reads the axis.

    Such a mask would be looked at for entry 0 alone, and be wrong for every other.

    Args:
        program: of the mask mod.
        remedies: for `"b"` and `"h"`, what to say and to do if it reads them; None where it may.
    """
    read = arguments_read(program)
    for number, name in enumerate(("b", "h")):
        if (remedy := remedies.get(name)) and number in read:
            raise ValueError(f"mask_mod reads {name}, but {remedy}")


def arguments_read(program: ClosedJaxpr) -> frozenset[int]:
    """Return the numbers of the arguments on whose values the first result of a program depends.

    Programs inside it (`jax.jit`, `lax.cond`, custom derivatives) are followed. Loops and whatever is not known
    count as reading all that they are given.
    """
    jaxpr = program.jaxpr
    return _through(jaxpr, [frozenset([number]) for number in range(len(jaxpr.invars))])[0]


def arrays_by_entry(jaxpr: Jaxpr, captured: int) -> tuple[bool, ...]:
    """For each array that a mod captured, whether all that is read of it is the row of its own batch entry.

    Such an array may be handed to each entry as its own row, `x[b][None]`: the slice at `(b, ...)` finds it there,
    for a slice's start is clamped to the array. Where the batch is sharded no index then crosses the devices.

    Args:
        jaxpr: of the mod: its first inputs are the captured arrays, its last `b, h, q_idx, kv_idx`.
        captured: how many arrays it captured.
    """
    b = jaxpr.invars[-4]
    producer = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}

    def made_by(x: Any, name: str) -> Sequence[Any]:
        """The operands of the equation that `x` comes from, if it is one of this name."""
        eqn = producer.get(x) if isinstance(x, Var) else None
        return eqn.invars if eqn is not None and eqn.primitive.name == name else (None, None)

    def is_entry(index: Any) -> bool:
        """`b`, or what indexing makes of it: `select_n(b < 0, b, b + n)`."""
        negative, otherwise, *_ = made_by(index, "select_n")
        compared, limit = made_by(negative, "lt")
        asked = compared is b and isinstance(limit, Literal) and bool(limit.val == 0)
        return index is b or (otherwise is b and asked)

    def reads_its_row(eqn: JaxprEqn, x: Var) -> bool:
        operand, first, *others = eqn.invars if eqn.primitive.name == "dynamic_slice" else (None, None)
        alone = operand is x and all(index is not x for index in others)
        return alone and eqn.params["slice_sizes"][0] == 1 and is_entry(first)

    return tuple(
        x not in jaxpr.outvars
        and all(reads_its_row(eqn, x) for eqn in jaxpr.eqns if any(given is x for given in eqn.invars))
        for x in jaxpr.invars[:captured]
    )


def evaluated(jaxpr: Jaxpr, *inputs: Any) -> list[Array]:
    """What a mod's program computes, within or without `jax.shard_map`, wherever it was traced.

    Within, the operands of each equation have to vary over the same devices; without, none does.

    Args:
        jaxpr: of a mod.
        inputs: the arrays that it captured, then its scalars.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))
    for eqn in jaxpr.eqns:
        given = [x.val if isinstance(x, Literal) else known[x] for x in eqn.invars]
        inner = _inner(eqn)
        if eqn.primitive.name in ("pvary", "pcast"):
            results = given
        elif "custom" in eqn.primitive.name:  # with a derivative of its own, which is a program of its own
            if any(vma(x.aval) for x in eqn.outvars):
                raise ValueError(NO_CUSTOM)
            read = dict.fromkeys(x for x in eqn.invars if isinstance(x, Var))
            alone = jaxpr.replace(constvars=[], invars=[*read], outvars=eqn.outvars, eqns=[eqn])
            results = eval_jaxpr(alone, (), *(known[x] for x in read))
        elif inner is not None and len(inner.invars) == len(given):
            results = evaluated(inner, *given)
        else:
            results = eqn.primitive.bind(*varying(given), **eqn.params)
            results = results if eqn.primitive.multiple_results else [results]
        known.update(zip(eqn.outvars, results, strict=True))
    return [x.val if isinstance(x, Literal) else known[x] for x in jaxpr.outvars]


def _inner(eqn: JaxprEqn) -> Jaxpr | None:
    """The program of a call."""
    if eqn.primitive.name not in CALLS:
        return None
    programs = (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
    inner = next((program for program in programs if program is not None), None)
    return getattr(inner, "jaxpr", inner)


def _through(jaxpr: Jaxpr, given: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """What each result depends on, if the inputs depend on `given`."""
    known = dict(zip(jaxpr.invars, given, strict=True))

    def of(variables: Sequence[Any]) -> list[frozenset[int]]:
        return [known.get(x, NOTHING) if isinstance(x, Var) else NOTHING for x in variables]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _through_equation(eqn, of(eqn.invars)), strict=True))
    return of(jaxpr.outvars)


def _through_equation(eqn: JaxprEqn, given: list[frozenset[int]]) -> list[frozenset[int]]:
    if eqn.primitive.name == "cond":
        chosen_by, *operands = given
        branches = [_through(branch.jaxpr, operands) for branch in eqn.params["branches"]]
        return [chosen_by.union(*results) for results in zip(*branches, strict=True)]
    inner = _inner(eqn)
    if inner is not None and len(inner.invars) == len(given):
        return _through(inner, given)
    return [NOTHING.union(*given)] * len(eqn.outvars)
