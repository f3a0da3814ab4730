"""A torch module in a lane's dtype, as it would be if it were loaded in that dtype.

Parameters and persistent buffers are what a checkpoint holds: they are rounded. What a module computes for
itself (buffers that are not saved, tensors that it keeps as plain attributes) stays in its own dtype, unless
the module then does not run, or gives another dtype than it should. Complex tensors stay complex.

In the truth, which runs in float64, only the parameters are rounded: a port may compute a table as exactly as
it likes.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from jax_attn.parity.lanes import Lane
from jax_attn.parity.runners.torch_keys import keyed, state_keys


class Casts:
    """The tensors of `module`, cast in place.

    Args:
        module: a copy that may be changed.
        lane: its dtype is the one to load in.
        truth: whether to run in float64 on what the lane holds.

    Attributes:
        kept: names of what is left in a wider dtype than the lane's.
    """

    def __init__(self, module: Any, lane: Lane, truth: bool = False):
        import torch

        self.lane = lane
        self.kept: dict[str, Any] = {}
        narrow, exact = getattr(torch, lane.dtype), truth or lane.exact
        keep = wide_parameters(module, lane)
        parameters = dict(module.named_parameters())
        saved = {id(tensor) for _, tensor in saved_buffers(module)}
        for name, tensor in [*parameters.items(), *constants(module)]:
            if tensor.is_complex():
                set_dtype(tensor, torch.complex128 if exact else torch.complex64)
                continue
            if not tensor.is_floating_point():
                continue
            if name in parameters:
                rounded = name not in keep
                if rounded:
                    set_dtype(tensor, narrow)
                if exact:
                    set_dtype(tensor, torch.float64)
                elif not rounded:
                    set_dtype(tensor, _at_most_float32(tensor.dtype))
            elif exact:
                set_dtype(tensor, torch.float64)
            elif id(tensor) not in saved and lane.narrows(str(tensor.dtype).removeprefix("torch.")):
                set_dtype(tensor, _at_most_float32(tensor.dtype))
                self.kept[name] = tensor
            else:
                set_dtype(tensor, narrow)

    def round(self) -> None:
        """Round what was kept, as `module.to(dtype)` does with buffers."""
        import torch

        for tensor in self.kept.values():
            set_dtype(tensor, getattr(torch, self.lane.dtype))

    @contextmanager
    def rounding(self) -> Generator[None]:
        """Within it, what was kept is rounded."""
        before = {name: tensor.data for name, tensor in self.kept.items()}
        self.round()
        try:
            yield
        finally:
            for name, tensor in self.kept.items():
                tensor.data = before[name]


def kept_keys(module: Any, lane: Lane) -> frozenset[str]:
    """Keys of what loading in the lane's dtype leaves in a wider one: Flax holds the same numbers there."""
    if not hasattr(module, "_parameters"):  # a recorded one, which has no narrow lane
        return frozenset()
    saved = {name for name, _ in saved_buffers(module)}
    buffers = dict(module.named_buffers(remove_duplicate=False))
    wide = wide_parameters(module, lane) | {
        name
        for name, tensor in buffers.items()
        if name not in saved
        and tensor.is_floating_point()
        and lane.narrows(str(tensor.dtype).removeprefix("torch."))
    }
    return frozenset(keyed(((name, None) for name in wide), state_keys(module)))


def wide_parameters(module: Any, lane: Lane) -> set[str]:
    """Names of parameters that are in a wider dtype than others, such as a router's or a norm's."""
    import torch

    real = {
        name: parameter.dtype
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.is_floating_point()
    }
    eps = {dtype: torch.finfo(dtype).eps for dtype in set(real.values())}
    narrowest = max(eps.values(), default=0.0)
    return {
        name
        for name, dtype in real.items()
        if eps[dtype] < narrowest and lane.narrows(str(dtype).removeprefix("torch."))
    }


def saved_buffers(module: Any) -> Iterator[tuple[str, Any]]:
    """The buffers that a checkpoint holds."""
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set:
                yield f"{path}.{name}".lstrip("."), buffer


def constants(module: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor that is no parameter: buffers, and what is kept as a plain attribute, also in containers."""
    seen = {id(parameter) for parameter in module.parameters()}
    for path, owner in module.named_modules():
        held = {**owner._buffers, **{k: v for k, v in vars(owner).items() if k not in INTERNAL}}
        for name, tensor in _tensors(held, path):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor


INTERNAL = ("_parameters", "_buffers", "_modules")


def _tensors(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple) and depth < 4:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from _tensors(child, f"{path}.{key}".lstrip("."), depth + 1)


def set_dtype(tensor: Any, dtype: Any) -> None:
    """Cast in place, so that whoever else holds the tensor has it too."""
    if tensor.dtype != dtype:
        tensor.data = tensor.data.to(dtype)


def _at_most_float32(dtype: Any) -> Any:
    import torch

    return torch.float32 if dtype == torch.float64 else dtype
