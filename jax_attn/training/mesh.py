"""One description of a mesh, and how a model and its batches are dealt out over it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_attn.functional.logical_axes import MESH_AXES, RULES, Rules, mesh_axes_of
from jax_attn.training.shardings import parameter_shardings


def make_mesh(
    axes: str | Mapping[str, int] | None = None,
    devices: Sequence[Any] | None = None,
    axis_type: AxisType = AxisType.Auto,
) -> Mesh:
    """Return a mesh with the axes `data, fsdp, tensor, context`; those that are not named have size 1.

    - `data`: batches are dealt out, parameters are on every device.
    - `fsdp`: batches are dealt out, and parameters too, each of which is gathered where it is used.
    - `tensor`: heads, hidden features and the vocabulary are dealt out.
    - `context`: the tokens of a sequence are dealt out; attention goes around in a ring.

    Args:
        axes: "data=2,fsdp=4" or a dict of it; -1 is what is left of the devices. None is all of them as `data`.
        devices: of which the mesh is made; None is all there are.
        axis_type: whether the compiler decides how arrays lie that no one named (Auto), or types do (Explicit).

    Raises:
        ValueError: an axis that is not known, a size that is no positive integer, or sizes that do not make up the
            number of devices.

    >>> mesh = make_mesh("data=2,fsdp=-1")
    >>> with jax.set_mesh(mesh):
    ...     ...
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = _shape({"data": -1} if axes is None else _parsed(axes), len(devices))
    return Mesh(_arranged(shape, devices), MESH_AXES, axis_types=(axis_type,) * len(MESH_AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return how the rows of a batch lie: over `data` and `fsdp`, where these have more than one device."""
    axes = mesh_axes_of("batch", mesh.size, mesh.shape)
    return NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Put a batch on the devices of a mesh: each process gives the rows of its own.

    Args:
        batch: a dict (or other tree) of NumPy arrays with all rows, the same in every process. Where the mesh does
            not divide the number of rows, each device has all of them.
        mesh: of `make_mesh`.
    """

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        axes = mesh_axes_of("batch", x.shape[0], mesh.shape) if x.ndim else ()
        sharding = NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, batch)


def create_sharded(build: Callable[[], Any], mesh: Mesh, rules: Rules = RULES) -> Any:
    """Return the module that `build()` returns, each device with its part of it alone; never whole on one.

    The values are those of `build()` without a mesh.

    Args:
        build: makes the module; it is traced.
        mesh: of `make_mesh`.
        rules: the axes of the mesh for each name.
    """
    abstract = nnx.eval_shape(build)
    shardings = parameter_shardings(abstract, mesh, rules)
    # Initial values come from arrays, which a mesh of explicit axes has none of yet.
    state = jax.jit(lambda: nnx.state(build()), out_shardings=shardings)()
    return nnx.merge(nnx.graphdef(abstract), state)


def _parsed(axes: str | Mapping[str, int]) -> dict[str, int]:
    """The sizes by axis."""
    if not isinstance(axes, str):
        return _known(dict(axes), axes)
    sizes: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in axes.split(","))):
        name, _, size = (x.strip() for x in part.partition("="))
        if name in sizes:
            raise ValueError(f"mesh must name each axis once, got {name!r} twice in {axes!r}")
        sizes[name] = int(size) if size.removeprefix("-").isdecimal() else size
    return _known(sizes, axes)


def _known(sizes: dict[str, Any], given: Any) -> dict[str, int]:
    """The sizes, if they are sizes of axes of ours."""
    for name, size in sizes.items():
        if name not in MESH_AXES:
            raise ValueError(f"mesh has the axes {', '.join(MESH_AXES)}; got {name!r} in {given!r}")
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise ValueError(f"mesh must give {name} a positive size, or -1, got {size!r} in {given!r}")
    if sum(size == -1 for size in sizes.values()) > 1:
        raise ValueError(f"mesh may leave one axis the rest (-1), got {given!r}")
    return sizes


def _shape(sizes: dict[str, int], devices: int) -> tuple[int, ...]:
    """The size of each of `MESH_AXES`."""
    known = math.prod(size for size in sizes.values() if size != -1)
    told = ",".join(f"{name}={size}" for name, size in sizes.items())
    if -1 in sizes.values():
        if devices % known:
            raise ValueError(f"mesh {told!r} must divide the {devices} devices, {known} does not")
        sizes = {name: devices // known if size == -1 else size for name, size in sizes.items()}
    elif known != devices:
        raise ValueError(f"mesh {told or 'of one device'!r} takes {known} devices, there are {devices}")
    return tuple(sizes.get(name, 1) for name in MESH_AXES)


def _arranged(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices in the order of the axes: neighbours on an axis are neighbours on a TPU's network."""
    if devices[0].platform != "tpu":
        return np.asarray(devices, dtype=object).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and shape[0] % slices == 0:  # only gradients cross the slower network between slices
        within = (shape[0] // slices, *shape[1:])
        between = (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
