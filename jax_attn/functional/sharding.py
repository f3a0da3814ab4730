"""Products and attention on meshes whose axes are explicit, and arrays that vary within `jax.shard_map`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax import lax
from jax.core import ShapedArray
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array


def auto_mesh(like: Array) -> AbstractContextManager[Any]:
    """Within it, functions are traced as `in_auto_axes` traces them; without any mesh where no axis is explicit.

    What is traced without a mesh can be computed on any. Within `shard_map` its mesh stays, for arrays that vary
    over the devices can be indexed on no other.
    """
    mesh = jax.typeof(like).sharding.mesh
    if AxisType.Manual in (mesh.axis_types or ()):
        return nullcontext()
    if AxisType.Explicit not in mesh.axis_types:
        return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
    explicit = [
        n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is AxisType.Explicit
    ]
    return jax.sharding.use_abstract_mesh(mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto)))


def in_auto_axes(
    f: Callable[[Any], tuple[Array, ...]], arrays: Any, like: Array, axes: Sequence[str]
) -> tuple[Array, ...]:
    """`f(arrays)`, computed where the partitioner finds the shardings, and placed as `like` is.

    On a mesh of explicit axes every operation would have to say how its result is sharded. Attention need not: its
    result is sharded as the query. Elsewhere this is `f(arrays)`.

    Args:
        like: the query, `(B, T, N, H)`.
        axes: for each result its axes, in letters: "BTNH".
    """
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in getattr(sharding.mesh, "axis_types", ()):
        return f(arrays)
    names = dict(zip("BTN", (*sharding.spec, *[None] * 3), strict=False))
    specs = tuple(PartitionSpec(*(names.get(axis) for axis in letters)) for letters in axes)
    if jax.sharding.get_abstract_mesh().empty:
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            return jax.sharding.auto_axes(f, out_sharding=specs)(arrays)
    return jax.sharding.auto_axes(f, out_sharding=specs)(arrays)


def explicit_sharding(like: Array) -> NamedSharding | None:
    """Where an array lies, on a mesh whose axes are explicit; elsewhere None, which leaves it to the compiler."""
    sharding = jax.typeof(like).sharding
    return sharding if AxisType.Explicit in (sharding.mesh.axis_types or ()) else None


def may_be_divided(x: Array) -> bool:
    """Whether an array lies on a mesh over which a partitioner divides what is computed of it."""
    mesh = jax.typeof(x).sharding.mesh
    return mesh.size > 1 and not set(mesh.axis_types) <= {AxisType.Manual}


def for_product(x: Array, kernel: Array, bias: Array | None = None) -> tuple[Array, Array | None, Any]:
    """Kernel and bias as `x @ kernel + bias` takes them, and the sharding of its result.

    On explicit axes types must say where everything lies: the result as `x`, its last axis as the kernel's where no
    axis of the mesh would be taken twice. What of the kernel lies otherwise is gathered, as FSDP wants. Elsewhere
    all is left as it is, and the sharding is None.

    Args:
        x: `(..., i)`.
        kernel: `(i, o)`.
        bias: `(o,)`.
    """
    of_x, of_kernel = (jax.typeof(array).sharding for array in (x, kernel))
    mesh = next((s.mesh for s in (of_x, of_kernel) if AxisType.Explicit in (s.mesh.axis_types or ())), None)
    if mesh is None:
        return kernel, bias, None
    *rows, inside = [*of_x.spec, *[None] * x.ndim][: x.ndim]
    outside = [*of_kernel.spec, None, None][1]
    taken = {name for part in (*rows, inside) for name in _names(part)}
    outside = outside if taken.isdisjoint(_names(outside)) else None
    kernel = jax.sharding.reshard(kernel, NamedSharding(mesh, PartitionSpec(inside, outside)))
    if bias is not None:
        bias = jax.sharding.reshard(bias, NamedSharding(mesh, PartitionSpec(outside)))
    return kernel, bias, NamedSharding(mesh, PartitionSpec(*rows, outside))


def varying(arrays: Any) -> Any:
    """The arrays of a tree, all of them varying over the axes of a `shard_map` over which any of them does."""
    names = frozenset().union(*(vma(x) for x in jax.tree.leaves(arrays)))
    if not names:
        return arrays

    def cast(x: Any) -> Any:
        missing = tuple(sorted(names - vma(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, arrays)


def vma(x: Any) -> frozenset[str]:
    """The axes of a `shard_map` over which an array varies, or one of this type."""
    of_type = x if isinstance(x, ShapedArray) else jax.typeof(x)
    newer = getattr(of_type, "manual_axis_type", None)
    return getattr(of_type, "vma", frozenset()) if newer is None else newer.varying


def _names(part: Any) -> tuple[str, ...]:
    return () if part is None else part if isinstance(part, tuple) else (part,)
