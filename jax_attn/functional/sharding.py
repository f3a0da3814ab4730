"""Attention on meshes whose axes are explicit."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array


def auto_mesh(like: Array) -> AbstractContextManager[Any]:
    """Within it, functions are traced as `in_auto_axes` traces them; without any mesh where no axis is explicit.

    What is traced without a mesh can be computed on any, and as one device's part in `shard_map`.
    """
    mesh = jax.typeof(like).sharding.mesh
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
