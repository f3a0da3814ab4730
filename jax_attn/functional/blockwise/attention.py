"""Attention in blocks as operations of JAX's own, whose program is chosen when the platform is known.

Three primitives: attention, its derivative in a direction, and its gradient. While a function is traced, mapped or
differentiated they stay whole; only when it is lowered for a platform is the program traced that suits it:
  one CPU      one block after another (`serial.py`); all heads of short texts at once (`short.py`); of few queries
               without a copy of the keys (`few_queries.py`);
  few queries  the whole matrix of scores, which is no longer than the keys (`dense.py`);
  a kernel     where the platform has one that serves the call (`kernels/`);
  else         batch, heads and rows of blocks side by side (`parallel.py`), which a partitioner can cut.
So one traced function serves every platform, nothing is compiled for another than its own, and the kernels are not
imported on the way to a CPU. The derivative in a direction and second derivatives take the whole matrix of scores.

Source: Rabe and Staats (arXiv 2112.05682); FlashAttention-2 (2307.08691), algorithms 1 and 2.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jax_attn.functional.blockwise import few_queries, parallel, serial, short
from jax_attn.functional.blockwise.plan import Pattern
from jax_attn.functional.blockwise.platforms import PlatformKernels, lowering_for
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.sharding import varying
from jax_attn.functional.terms import Terms, combine, partition

FEW_QUERIES = 8  # of which the whole matrix is no longer than the keys
Outputs = tuple[Array, Array, Array]  # output, log-sum-exp, largest score


class Static(NamedTuple):
    """What of a call is no array.

    Attributes:
        scale: factor of the scores.
        differentiable: how many operands have a gradient: query, key, value and what `partition` says.
        trees: the structure of these operands, and of the others.
        implementation: which was asked for.
        statistics: whether log-sum-exp and largest score are asked for.
        mapped: for each `jax.vmap` around the call, innermost first, which of the other operands it maps.
        differentiated: whether the outputs are residuals too.
    """

    scale: float
    differentiable: int
    trees: tuple[Any, Any]
    implementation: str | None
    statistics: bool
    mapped: tuple[tuple[bool, ...], ...] = ()
    differentiated: bool = False


def blockwise_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
    implementation: str | None = "blockwise",
    statistics: bool = True,
) -> Outputs:
    """Output `(B, T, N, Hv)`, log-sum-exp and largest score `(B, T, N)`; the latter has no gradient.

    Args:
        implementation: "blockwise", or the name of a kernel, or None for what suits the platform.
        statistics: whether log-sum-exp and largest score are asked for; a kernel may be without.
    """
    differentiable, constant = partition(terms)
    with_gradient, tree = jax.tree.flatten((query, key, value, differentiable))
    others, others_tree = jax.tree.flatten((constant, pattern))
    static = Static(scale, len(with_gradient), (tree, others_tree), implementation, statistics)
    return tuple(
        attention_p.bind(*varying([jnp.asarray(x) for x in (*with_gradient, *others)]), static=static)
    )


def blockwise_gradient(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
    implementation: str | None,
    output: Float[Array, "B T N Hv"],
    lse: Float[Array, "B T N"],
    d_output: Float[Array, "B T N Hv"],
    d_lse: Float[Array, "B T N"],
) -> tuple[Array, Array, Array, Any]:
    """The gradients of query, key, value and of what `partition(terms)` calls differentiable.

    Output and log-sum-exp may be those over more keys than these: then this is these keys' part of the gradients.
    """
    differentiable, constant = partition(terms)
    with_gradient, tree = jax.tree.flatten((query, key, value, differentiable))
    others, others_tree = jax.tree.flatten((constant, pattern))
    static = Static(scale, len(with_gradient), (tree, others_tree), implementation, True)
    saved = (output, lse, d_output, d_lse)
    found = gradient_p.bind(
        *varying([jnp.asarray(x) for x in (*with_gradient, *others, *saved)]), static=static
    )
    return jax.tree.unflatten(tree, found)


# The primitives: operands that have a gradient, the others, and what each takes beside them.

attention_p = Primitive("attention")  # -> output, log-sum-exp, largest score
tangent_p = Primitive("attention_tangent")  # output, log-sum-exp, tangents -> tangents of both
gradient_p = Primitive("attention_gradient")  # output, log-sum-exp, cotangents of both -> gradients
PRIMITIVES = (attention_p, tangent_p, gradient_p)


def _outputs(static: Static, *operands: Any) -> list[Any]:
    """The shapes of output, log-sum-exp and largest score."""
    query, _, value = operands[:3]
    wide = accumulator(query.dtype)
    statistics = query.update(shape=query.shape[:-1], dtype=wide, sharding=_of_rank(query, query.ndim - 1))
    output = query.update(shape=(*query.shape[:-1], value.shape[-1]), dtype=value.dtype)
    return [output, statistics, statistics]


def _of_rank(aval: Any, ndim: int) -> Any:
    return aval.sharding.update(spec=aval.sharding.spec.update(partitions=(None,) * ndim))


for primitive in PRIMITIVES:
    primitive.multiple_results = True
    primitive.def_impl(functools.partial(lambda p, *x, **params: _compiled(p, **params)(*x), primitive))
attention_p.def_abstract_eval(lambda *x, static: _outputs(static, *x))
tangent_p.def_abstract_eval(lambda *x, static, moved: _outputs(static, *x)[:2])
gradient_p.def_abstract_eval(lambda *x, static: list(x[: static.differentiable]))


@functools.lru_cache(maxsize=4096)
def _compiled(primitive: Primitive, **params: Any) -> Callable[..., Any]:
    """The primitive as a compiled function, for calls outside `jax.jit`."""

    def call(*operands: Array) -> Any:
        return primitive.bind(*operands, **params)

    jitted = jax.jit(call)

    def run(*operands: Array) -> Any:
        with jax.disable_jit(False):
            return jitted(*operands)

    return run


# Derivatives.


def _attention_jvp(primals: Sequence[Array], tangents: Sequence[Any], *, static: Static) -> Any:
    static = static._replace(differentiated=True)
    outputs = attention_p.bind(*primals, static=static)
    output, lse, peak = outputs
    given = tangents[: static.differentiable]
    moved = tuple(i for i, x in enumerate(given) if not isinstance(x, ad.Zero))
    constant = ad.Zero(jax.typeof(peak).to_tangent_aval())
    if not moved:
        zeros = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in (output, lse)]
        return outputs, [*zeros, constant]
    directions = tangent_p.bind(*primals, output, lse, *(given[i] for i in moved), static=static, moved=moved)
    return outputs, [*directions, constant]


def _tangent_transpose(
    cotangents: Sequence[Any], *operands: Any, static: Static, moved: tuple[int, ...]
) -> Any:
    known = operands[: -len(moved)]
    directions = operands[-len(moved) :]
    if all(isinstance(x, ad.Zero) for x in cotangents):
        return [None] * len(operands)
    gradients = gradient_p.bind(*known, *map(ad.instantiate_zeros, cotangents), static=static)
    asked = [
        gradients[i] if ad.is_undefined_primal(x) else None for i, x in zip(moved, directions, strict=True)
    ]
    return [*(None for _ in known), *asked]


def _through_dense(primitive: Primitive, dense: Callable[..., Callable[..., Any]]) -> Callable[..., Any]:
    """The derivative of a primitive, as that of its formula over the whole matrix of scores."""

    def jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
        tangents = [
            jnp.zeros(x.shape, x.dtype)
            if isinstance(t, ad.Zero) and jnp.issubdtype(x.dtype, jnp.floating)
            else t
            for x, t in zip(primals, tangents, strict=True)
        ]
        floating = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def f(*changed: Array) -> Any:
            operands = list(primals)
            for i, x in zip(floating, changed, strict=True):
                operands[i] = x
            return dense(**params)(*operands)

        at, directions = (tuple(x[i] for i in floating) for x in (primals, tangents))
        return primitive.bind(*primals, **params), jax.jvp(f, at, directions)[1]

    return jvp


def _dense(static: Static, operands: Sequence[Array]) -> tuple[Callable[..., Any], tuple[Array, ...]]:
    """Output and log-sum-exp as a plain function of what has a gradient."""
    trees, count = static.trees, static.differentiable
    terms = jax.tree.unflatten(trees[1], operands[count : count + trees[1].num_leaves])[0]

    def attend(*with_gradient: Array) -> tuple[Array, Array]:
        query, key, value, differentiable = jax.tree.unflatten(trees[0], with_gradient)
        result = dense_attention(query, key, value, combine(differentiable, terms), scale=static.scale)
        return result.output, result.lse

    return attend, tuple(operands[:count])


def _dense_tangent(*, static: Static, moved: tuple[int, ...]) -> Callable[..., Any]:
    def tangent(*operands: Array) -> Any:
        attend, primals = _dense(static, operands)
        directions = dict(zip(moved, operands[len(operands) - len(moved) :], strict=True))
        tangents = [directions.get(i, jnp.zeros(x.shape, x.dtype)) for i, x in enumerate(primals)]
        return list(jax.jvp(attend, primals, tuple(tangents))[1])

    return _mapped(tangent, static)


def _dense_gradient(*, static: Static) -> Callable[..., Any]:
    def gradient(*operands: Array) -> Any:
        attend, primals = _dense(static, operands)
        return list(jax.vjp(attend, *primals)[1](tuple(operands[-2:])))

    return _mapped(gradient, static)


ad.primitive_jvps[attention_p] = _attention_jvp
ad.primitive_jvps[tangent_p] = _through_dense(tangent_p, _dense_tangent)
ad.primitive_jvps[gradient_p] = _through_dense(gradient_p, _dense_gradient)
ad.primitive_transposes[tangent_p] = _tangent_transpose


# vmap: the primitive stays, and remembers what is mapped.


def _mapped(f: Callable[..., Any], static: Static, one_by_one: bool = False) -> Callable[..., Any]:
    """`f` under the `jax.vmap`s around the call."""
    first, last = static.differentiable, static.differentiable + static.trees[1].num_leaves
    for flags in static.mapped:
        f = _over_axis(f, lambda i, flags=flags: not first <= i < last or flags[i - first], one_by_one)
    return f


def _over_axis(
    f: Callable[..., Any], is_mapped: Callable[[int], bool], one_by_one: bool
) -> Callable[..., Any]:
    def over(*operands: Array) -> Any:
        axes = [0 if is_mapped(i) else None for i in range(len(operands))]
        if not one_by_one:
            return jax.vmap(f, in_axes=axes)(*operands)

        def one(mapped: Sequence[Array]) -> Any:
            rest = iter(mapped)
            return f(*(x if at is None else next(rest) for x, at in zip(operands, axes, strict=True)))

        return lax.map(one, [x for x, at in zip(operands, axes, strict=True) if at == 0])

    return over


def _batch(primitive: Primitive, operands: Sequence[Array], dims: Sequence[Any], **params: Any) -> Any:
    static: Static = params.pop("static")
    first, last = static.differentiable, static.differentiable + static.trees[1].num_leaves
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    flags = tuple(d is not None for d in dims[first:last])
    fronted = [
        jnp.moveaxis(x, d, 0)
        if d is not None
        else x
        if first <= i < last
        else jnp.broadcast_to(x[None], (size, *x.shape))
        for i, (x, d) in enumerate(zip(operands, dims, strict=True))
    ]
    results = primitive.bind(*fronted, static=static._replace(mapped=(*static.mapped, flags)), **params)
    return results, [0] * len(results)


for primitive in PRIMITIVES:
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)


# Lowering: now the platform is known, and on how many devices the program runs.


def _forward(form: Any) -> Callable[..., Any]:
    def program(static: Static) -> Callable[..., Any]:
        def run(*operands: Array) -> Any:
            query, key, value, terms, pattern = _call(static, operands)
            return list(form.forward(query, key, value, terms, pattern, static.scale))

        return _mapped(run, static, one_by_one=form in (serial, few_queries))

    return program


def _backward(form: Any) -> Callable[..., Any]:
    def program(static: Static) -> Callable[..., Any]:
        def run(*operands: Array) -> Any:
            call, saved = _call(static, operands[:-4]), operands[-4:]
            return jax.tree.leaves(form.backward(*call, static.scale, *saved))

        return _mapped(run, static, one_by_one=form in (serial, few_queries))

    return program


def _call(static: Static, operands: Sequence[Array]) -> tuple[Array, Array, Array, Terms, Pattern]:
    trees, count = static.trees, static.differentiable
    query, key, value, differentiable = jax.tree.unflatten(trees[0], operands[:count])
    constant, pattern = jax.tree.unflatten(trees[1], operands[count:])
    return query, key, value, combine(differentiable, constant), pattern


def _on_one_device(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether the program sees the whole of its arrays: on one device, or as one of many in `shard_map`."""
    where = ctx.module_context.axis_context
    mesh: Any = getattr(where, "mesh", None)
    if mesh is None:
        return getattr(where, "num_devices", 1) == 1
    return mesh.size == 1 or set(getattr(where, "manual_axes", ())) == set(mesh.axis_names)


class _Whole:
    """Attention over the whole matrix of scores, in the form of `serial.py` and `parallel.py`."""

    @staticmethod
    def forward(
        query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float
    ) -> Outputs:
        """As `parallel.forward`."""
        return dense_attention(query, key, value, terms, scale=scale)[:3]

    @staticmethod
    def backward(
        query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float, *saved: Array
    ) -> tuple[Any, ...]:
        """As `parallel.backward`; the forward pass is computed again."""
        differentiable, constant = partition(terms)

        def outputs(query: Array, key: Array, value: Array, differentiable: Any) -> tuple[Array, Array]:
            return dense_attention(query, key, value, combine(differentiable, constant), scale=scale)[:2]

        return jax.vjp(outputs, query, key, value, differentiable)[1](saved[2:])


def _local(aval: Any) -> Any:
    """The same shape, as one of the devices of a `shard_map` sees it: the program within need not know more."""
    return aval.update(manual_axis_type=ShapedArray((), aval.dtype).manual_axis_type)


def _form(ctx: mlir.LoweringRuleContext, platform: str, static: Static) -> Any:
    """What computes the call: it has a `forward` and a `backward`."""
    sizes = [n for x in ctx.avals_in[:3] for n in getattr(x, "shape", ())]
    whole = _on_one_device(ctx) and all(isinstance(n, int) for n in sizes)
    avals: Any = ctx.avals_in
    query, key = (x.shape[len(static.mapped) :] for x in avals[:2])
    few = isinstance(query[1], int) and query[1] <= FEW_QUERIES
    if platform == "cpu" and whole and static.implementation in (None, "blockwise"):
        rows = query[1] * query[2] // key[2]
        if few and rows <= few_queries.MOST_ROWS:
            return few_queries
        output_alone = not (static.statistics or static.differentiated or static.mapped)
        return short if output_alone and short.serves(*avals[:2], _terms(static)) else serial
    if static.implementation == "blockwise":
        return parallel
    if static.implementation is None and few:
        return _Whole
    return PlatformKernels(platform, static.implementation, static.statistics, whole)


def _terms(static: Static) -> Terms:
    """The terms of a call, without their arrays."""
    constant: Terms = jax.tree.unflatten(static.trees[1], range(static.trees[1].num_leaves))[0]
    return constant


def _lower(program_of: Callable[..., Callable[..., Any]], platform: str) -> Callable[..., Any]:
    """A rule that lowers `program_of(form)(static)`."""

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, static: Static) -> Any:
        program = program_of(_form(ctx, platform, static))(static)
        avals = [_local(x) for x in ctx.avals_in]
        with lowering_for(platform):
            return mlir.lower_fun(program, multiple_results=True)(ctx.replace(avals_in=avals), *operands)

    return rule


for primitive, program_of in ((attention_p, _forward), (gradient_p, _backward)):
    mlir.register_lowering(primitive, _lower(program_of, "this platform"))
    for platform in ("cpu", "cuda", "tpu"):
        mlir.register_lowering(primitive, _lower(program_of, platform), platform=platform)


def _lower_tangent(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
    avals = [_local(x) for x in ctx.avals_in]
    program = _dense_tangent(**params)
    return mlir.lower_fun(program, multiple_results=True)(ctx.replace(avals_in=avals), *operands)


mlir.register_lowering(tangent_p, _lower_tangent)
