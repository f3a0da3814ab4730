"""Which part of each parameter lies on which device of a mesh."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_attn.functional.logical_axes import RULES, Rules, spec_of

Path = tuple[str, ...]
Names = tuple[str | None, ...]

# What makes up an axis that is never cut within: a kernel's columns are heads of so many features each.
UNITS = {"heads": "num_heads", "kv_heads": "num_kv_heads", "qk_heads": "num_qk_heads"}


class Axes(NamedTuple):
    """The axes of a variable.

    Attributes:
        names: what each means; None where no one says, of the variable or of one axis.
        sizes: into how many equal parts each may be cut at most.
    """

    names: Names | None
    sizes: tuple[int, ...]


def logical_axes_of(module: Any) -> dict[Path, Axes]:
    """Return the axes of every variable of a module, by its path.

    A module's class says what its parameters' axes mean, `logical_axes = {"q_proj": ("embed", "heads")}`: of a
    variable of its own, or of a part's, whose kernel has these axes and whose bias the last. What
    `nnx.with_partitioning` noted down counts before. Leaves of `stacked` layers have an axis "layers" first.

    Args:
        module: any `nnx.Module`, which may be abstract (`nnx.eval_shape`).
    """
    return {
        tuple(map(str, path)): _axes(module, path, variable)
        for path, variable in nnx.to_flat_state(nnx.state(module))
    }


def parameter_shardings(module: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Return the sharding of every variable of a module, in the form of `nnx.state(module)`.

    What no one names is dealt out over `fsdp` along its longest axis, if it is an `nnx.Param`, and else whole
    everywhere.

    Args:
        module: any `nnx.Module`, which may be abstract (`nnx.eval_shape`).
        mesh: of `make_mesh`.
        rules: the axes of the mesh for each name.
    """
    found = _by_path(module, mesh, rules)
    return _map_paths(lambda path, leaf: found[path][1], nnx.state(module))


def shardings_like(tree: Any, module: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Return the sharding of every array of what follows a module's parameters: an optimizer's state, an average.

    An array whose path ends in the path of a parameter, and which has its shape, lies as this does; others, such as
    counts, are whole everywhere.

    Args:
        tree: arrays, or their shapes, in any form: `optimizer.init(nnx.state(model, nnx.Param))`, or
            `nnx.state(optimizer)`.
        module: the module whose parameters it follows, which may be abstract.
        mesh: of `make_mesh`.
        rules: the axes of the mesh for each name.
    """
    found = _by_path(module, mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    def sharding(path: Path, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, like = found.get(path[start:], (None, whole))
            if shape is not None:
                return like if shape == leaf.shape else whole
        return whole

    return _map_paths(sharding, tree)


def _by_path(module: Any, mesh: Mesh, rules: Rules) -> dict[Path, tuple[tuple[int, ...], NamedSharding]]:
    """Shape and sharding of each variable."""
    axes = logical_axes_of(module)
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        names, sizes = axes[tuple(map(str, path))]
        if names is None:
            names = _unnamed(variable, mesh.shape)
        spec = _by_rows(names, sizes, spec_of(names, sizes, mesh.shape, rules), mesh.shape)
        found[tuple(map(str, path))] = variable.shape, NamedSharding(mesh, spec)
    return found


def _by_rows(
    names: Names, sizes: tuple[int, ...], spec: PartitionSpec, axis_sizes: Mapping[str, int]
) -> PartitionSpec:
    """`spec`, but a kernel that leads back to the model's width is dealt out by rows alone, where they divide.

    TPUs reduce-scatter gradients along rows; along columns they all-reduce them, which sends twice as much.
    """
    if names[-1:] != ("embed",) or not {"heads", "mlp"}.intersection(names[-2:-1]):
        return spec
    *before, rows, columns = spec
    axes = tuple(
        axis for part in (rows, columns) for axis in ((part,) if isinstance(part, str) else part or ())
    )
    if sizes[-2] % math.prod(axis_sizes[axis] for axis in axes):
        return spec
    return PartitionSpec(*before, axes[0] if len(axes) == 1 else axes or None, None)


def _unnamed(variable: Any, axis_sizes: Mapping[str, int]) -> Names:
    """`fsdp` for the longest axis that it divides."""
    shape, parts = variable.shape, axis_sizes.get("fsdp", 1)
    dividing = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if not dividing or not isinstance(variable, nnx.Param):
        return (None,) * len(shape)
    longest = max(dividing, key=lambda axis: shape[axis])
    return tuple("fsdp" if axis == longest else None for axis in range(len(shape)))


def _axes(module: Any, path: tuple[Any, ...], variable: Any) -> Axes:
    owners: list[tuple[Any, str]] = []  # modules on the way, and the attribute that leads on
    node = module
    for key in path:
        if isinstance(node, nnx.List | nnx.Dict):
            node = node[key]
            continue
        owners.append((node, key))
        node = getattr(node, key)
    stacked = sum(name in getattr(owner, "stacked", ()) for owner, name in owners)
    shape = variable.shape
    names, owner = _named(owners, variable)
    if names is None:
        return Axes(None, shape)
    rank = len(shape) - stacked
    names = names[max(len(names) - rank, 0) :]
    names = (*("layers",) * stacked, *(None,) * (rank - len(names)), *names)
    units = (getattr(owner, UNITS.get(name or "", ""), None) for name in names)
    return Axes(names, tuple(math.gcd(n, unit or n) for n, unit in zip(shape, units, strict=True)))


def _named(owners: list[tuple[Any, str]], variable: Any) -> tuple[Names | None, Any]:
    """What the variable, its owner, or the owner of that says of its axes; and who says so.

    Of a table or a kernel its user knows more than itself.
    """
    if noted := variable.get_metadata().get("out_sharding"):
        return tuple(noted), None
    is_leaf = isinstance(owners[-1][0], nnx.Embed | nnx.Linear | nnx.Conv)
    for owner, name in owners[-2:] if is_leaf else owners[:-3:-1]:
        if name in (said := getattr(owner, "logical_axes", {})):
            return said[name], owner
    return None, None


def _map_paths(f: Any, tree: Any) -> Any:
    """`f(path, leaf)` of each leaf, where a path is that of a module's attributes."""

    def of_leaf(keys: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(keys[-1] if keys else None, jax.tree_util.GetAttrKey) and keys[-1].name == "value":
            keys = keys[:-1]  # of an nnx.Variable
        return f(tuple(str(_key(key)) for key in keys), leaf)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def _key(key: Any) -> Any:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return getattr(key, name)
    return key
