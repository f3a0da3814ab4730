"""One program on many chips: each runs the kernels on its own batch entries and heads.

XLA cannot divide a kernel. What happens depends on how the arrays are divided:

- on one device, or inside `jax.shard_map`, the kernel runs on what is there;
- on Explicit axes of a mesh the shardings are part of the types: the kernel runs in a `shard_map` of its own;
- on Auto axes XLA decides only after lowering: there the same arithmetic is left to XLA, which divides it without
  moving anything. (`custom_partitioning` would keep the kernel; the TPU compiler does not know it ahead of time.)

Every array has an axis of batch entries and one of heads in front, either of which may have but one entry: then it
is the same for all, or, in a result, the sum over all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

Function = Callable[..., Sequence[Array]]  # of the origin, then of arrays


def per_device(kernel: Function, plain: Function, arrays: Sequence[Any]) -> list[Array]:
    """`kernel(origin, *arrays)` on the part of each device, or `plain`, which computes the same by XLA.

    The origin is the batch entry and the head with which the part begins.

    Args:
        arrays: the first has all batch entries and heads; the divisions follow it.
    """
    mesh = jax.typeof(arrays[0]).sharding.mesh
    axes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    manual = AxisType.Manual in mesh.axis_types
    kinds = {kind for kind, size in axes if size > 1 and kind is not AxisType.Manual}
    none = np.zeros(2, np.int32)
    if kinds == {AxisType.Explicit} and not manual:
        return _in_shard_map(kernel, mesh, arrays)
    if manual:
        # What is left to XLA inside a shard_map of a part of the axes cannot have a kernel either.
        return list((plain if kinds else kernel)(none, *arrays))
    return per_device_p.bind(
        *map(jnp.asarray, arrays), kernel=lambda *xs: kernel(none, *xs), plain=lambda *xs: plain(none, *xs)
    )


def heads_divide(query: Array, kv_heads: int) -> bool:
    """Whether the heads of keys lie on Explicit axes as those of queries do, or are one for all."""
    sharding = jax.typeof(query).sharding
    names = _names(sharding, 1) if AxisType.Explicit in sharding.mesh.axis_types else ()
    return kv_heads == 1 or kv_heads % _size(sharding.mesh, names) == 0


def by_batch(f: Function, entries: int, origin: Any, arrays: Sequence[Array]) -> list[Array]:
    """`f(origin, *arrays)` for so many batch entries at a time."""
    batch = arrays[0].shape[0]
    if entries >= batch:
        return list(f(origin, *arrays))
    entries = next(n for n in range(max(entries, 1), 0, -1) if batch % n == 0)
    whole = [x.shape[0] == batch for x in arrays]

    def part(at: tuple[Array, list[Array]]) -> list[Array]:
        turn, parts = at
        own = iter(parts)
        given = [next(own) if yes else x for yes, x in zip(whole, arrays, strict=True)]
        start = jnp.stack([jnp.asarray(origin)[0] + turn * entries, jnp.asarray(origin)[1]])
        return list(f(start.astype(jnp.int32), *given))

    parts = [
        jnp.reshape(x, (batch // entries, entries, *x.shape[1:]))
        for yes, x in zip(whole, arrays, strict=True)
        if yes
    ]
    results = lax.map(part, (jnp.arange(batch // entries), parts))
    shapes = jax.eval_shape(lambda *xs: f(np.zeros(2, np.int32), *xs), *arrays)
    return [
        x.reshape(shape.shape) if shape.shape[0] == batch else x.sum(0)
        for x, shape in zip(results, shapes, strict=True)
    ]


def varying(arrays: Any) -> Any:
    """The arrays of a tree, all of them varying over the axes of a `shard_map` over which any of them does."""
    names = frozenset().union(*(vma(x) for x in jax.tree.leaves(arrays)))
    if not names:
        return arrays

    def cast(x: Any) -> Any:
        missing = tuple(sorted(names - vma(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, arrays)


def like(shape: tuple[int, ...], dtype: Any, x: Array) -> jax.ShapeDtypeStruct:
    """A shape and dtype that varies over the axes of a `shard_map` as `x` does."""
    of_type = jax.typeof(x)
    for name in ("manual_axis_type", "vma"):  # the newer name and the older one
        if hasattr(of_type, name):
            return jax.ShapeDtypeStruct(shape, dtype, **{name: getattr(of_type, name)})
    return jax.ShapeDtypeStruct(shape, dtype)


def vma(x: Any) -> frozenset[str]:
    """The axes of a `shard_map` over which an array varies."""
    of_type = jax.typeof(x)
    newer = getattr(of_type, "manual_axis_type", None)
    return getattr(of_type, "vma", frozenset()) if newer is None else newer.varying


def _in_shard_map(kernel: Function, mesh: Any, arrays: Sequence[Array]) -> list[Array]:
    sharding = jax.typeof(arrays[0]).sharding
    names = (_names(sharding, 0), _names(sharding, 1))
    sizes = tuple(_size(mesh, own) for own in names)

    def spec(shape: tuple[int, ...]) -> PartitionSpec:
        own = (name if n > 1 and name else None for name, n in zip(names, shape[:2], strict=True))
        return PartitionSpec(*own, *[None] * (len(shape) - 2))

    def local(*parts: Array) -> list[Array]:
        origin = [
            lax.axis_index(own) * n if own else 0 for own, n in zip(names, parts[0].shape[:2], strict=True)
        ]
        results = kernel(jnp.stack([jnp.asarray(x, jnp.int32) for x in origin]), *parts)
        return [_summed(x, whole.shape) for x, whole in zip(results, shapes, strict=True)]

    def _summed(x: Array, whole: tuple[int, ...]) -> Array:
        over = [own for own, n, size in zip(names, whole[:2], sizes, strict=True) if n == 1 and size > 1]
        return lax.psum(x, tuple(name for own in over for name in own)) if over else x

    with_shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    shapes = jax.eval_shape(lambda *xs: kernel(np.zeros(2, np.int32), *xs), *with_shapes)
    placed = [jax.sharding.reshard(jnp.asarray(x), NamedSharding(mesh, spec(x.shape))) for x in arrays]
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(spec(x.shape) for x in arrays),
        out_specs=[spec(x.shape) for x in shapes],
        check_vma=False,
    )(*placed)


per_device_p = Primitive("per_device")
per_device_p.multiple_results = True


@per_device_p.def_abstract_eval
def _abstract(*avals: Any, kernel: Function, plain: Function) -> list[ShapedArray]:
    shapes = jax.eval_shape(plain, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals))
    return [ShapedArray(x.shape, x.dtype) for x in shapes]


@per_device_p.def_impl
def _eager(*arrays: Array, **functions: Function) -> list[Array]:
    return jax.jit(lambda *xs: per_device_p.bind(*xs, **functions))(*arrays)


def _batched(
    arrays: Sequence[Array], axes: Sequence[Any], *, kernel: Function, plain: Function
) -> tuple[list[Array], list[int]]:
    axes = tuple(axis if isinstance(axis, int) else None for axis in axes)
    results = per_device_p.bind(*arrays, kernel=jax.vmap(kernel, axes), plain=jax.vmap(plain, axes))
    return results, [0] * len(results)


def _lowered(ctx: Any, *values: Any, kernel: Function, plain: Function) -> Any:
    divided = _left_to_xla(ctx.module_context.axis_context)
    return mlir.lower_fun(plain if divided else kernel, multiple_results=True)(ctx, *values)


batching.primitive_batchers[per_device_p] = _batched
mlir.register_lowering(per_device_p, _lowered)


def _left_to_xla(context: Any) -> bool:
    """Whether a module that is being lowered is one for several devices, which XLA divides."""
    if hasattr(context, "num_devices"):
        return context.num_devices != 1
    mesh = getattr(context, "mesh", None)
    if mesh is None or mesh.size == 1:
        return False
    manual = set(getattr(context, "manual_axes", ())) | set(getattr(mesh, "manual_axes", ()))
    return manual != set(mesh.axis_names)


def _names(sharding: NamedSharding, axis: int) -> tuple[str, ...]:
    own = sharding.spec[axis] if axis < len(sharding.spec) else None
    return () if own is None else own if isinstance(own, tuple) else (own,)


def _size(mesh: Any, names: Sequence[str]) -> int:
    return int(np.prod([mesh.shape[name] for name in names], dtype=int))
