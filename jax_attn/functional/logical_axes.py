"""What an axis of an array means, and over which axes of a mesh it is dealt out.

Modules and functions name the axes of their parameters and activations; one table says where each name goes on a
mesh of `data, fsdp, tensor, context` (`jax_attn.training.make_mesh`). An axis that the mesh does not divide stays
whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

MESH_AXES = ("data", "fsdp", "tensor", "context")
Rules = Mapping[str, str | tuple[str, ...] | None]
# Of a class: what the axes mean of each of its parameters, or of its parts' (a kernel's; a bias has the last).
LogicalAxes = Mapping[str, tuple[str | None, ...]]

RULES: Rules = {
    # Activations.
    "batch": ("data", "fsdp"),
    "length": "context",
    # Parameters, and activations where they have these axes too.
    "heads": "tensor",
    "kv_heads": "tensor",
    "qk_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "experts": "tensor",
    # Parameters alone: FSDP keeps a part of each, and gathers it where it is used.
    "embed": "fsdp",
    # Whole on every device.
    "layers": None,
    "head_dim": None,
    "rank": None,
    "norm": None,
    "positions": None,
    "classes": None,
    "channels": None,
}


def mesh_axes_of(
    name: str | tuple[str, ...] | None, size: int, axis_sizes: Mapping[str, int], rules: Rules = RULES
) -> tuple[str, ...]:
    """Return the axes of a mesh over which an axis of `size` is dealt out; none where they do not divide it.

    Args:
        name: what the axis means; one axis of the mesh or several by their own names; or None, nothing.
        size: how many entries it has, or how many groups of them that belong together, as heads.
        axis_sizes: the axes of the mesh.
        rules: where each name goes.
    """
    if name is None:
        return ()
    wanted = name if isinstance(name, tuple) else rules.get(name, name if name in axis_sizes else None)
    wanted = (wanted,) if isinstance(wanted, str) else wanted or ()
    found: tuple[str, ...] = ()
    for axis in wanted:
        parts = axis_sizes.get(axis, 1)
        if parts > 1 and size % parts == 0:
            found, size = (*found, axis), size // parts
    return found


def spec_of(
    names: Sequence[str | None],
    sizes: Sequence[int],
    axis_sizes: Mapping[str, int],
    rules: Rules = RULES,
) -> PartitionSpec:
    """Return how an array with these axes is dealt out: no axis of the mesh twice, the first comes first."""
    taken: set[str] = set()
    parts: list[Any] = []
    for name, size in zip(names, sizes, strict=True):
        free = {axis: n for axis, n in axis_sizes.items() if axis not in taken}
        axes = mesh_axes_of(name, size, free, rules)
        taken.update(axes)
        parts.append(None if not axes else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*parts)


def mesh_in_sight() -> Any:
    """The mesh of `jax.set_mesh`, if it is one of `MESH_AXES` with more than one device and not in `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return None
    return mesh if all(n == 1 or name in MESH_AXES for name, n in mesh.shape.items()) else None


def constrain(x: Array, *names: str | None) -> Array:
    """`x`, dealt out over the mesh in sight as its axes' names say; `x` itself where there is none.

    Without it the compiler guesses, and gathers batches and heads where it guesses wrong.

    Args:
        x: an activation.
        names: what its axes mean; where it has fewer (no batch), those of its last. None is whole on
            every device.

    >>> x = constrain(x, "batch", "length", None)
    """
    mesh = mesh_in_sight()
    if mesh is None or x.ndim > len(names):
        return x
    names = names[len(names) - x.ndim :]
    spec = spec_of(names, x.shape, mesh.shape)
    # What has a name and does not divide is left to the compiler.
    free = [part is None and name is not None for part, name in zip(spec, names, strict=True)]
    if AxisType.Explicit in mesh.axis_types:
        now = [*jax.typeof(x).sharding.spec, *[None] * x.ndim][: x.ndim]
        spec = [old if is_free else part for part, old, is_free in zip(spec, now, free, strict=True)]
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))
    spec = [
        PartitionSpec.UNCONSTRAINED if is_free else part for part, is_free in zip(spec, free, strict=True)
    ]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))
