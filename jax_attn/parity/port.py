"""A port that somebody wants compared: what the function in their file returns."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.tracing.module_pairs import ModuleNames
from jax_attn.weights.rules import Names, require_names
from jax_attn.weights.tensors import is_torch_tensor


@dataclass(frozen=True, kw_only=True)
class Port:
    """Two modules, and how they are called. All but the modules and `inputs` have defaults that mostly do.

    Attributes:
        flax: the NNX module; None where a trace of torch alone is recorded.
        torch: the torch module; None where Flax is compared with a recorded trace.
        inputs: positional arguments of both.
        kwargs: keyword arguments of both.
        names: pairs (pattern, replacement) that turn Flax keys into torch's, as in `load_state_dict`.
        modules: submodules that belong together, Flax path to torch path, where the weights do not decide.
        call_flax: `call_flax(module, *inputs, **kwargs)` in place of `module(*inputs, **kwargs)`.
        call_torch: the same for torch.
        weights: whose weights both sides get, "torch" or "flax"; None leaves each its own.
        whole_model: hold float64 to the bound of a whole model rather than of one module.
        seed: of the cotangents that gradients are taken with, and of the dropout masks.
        title: what the report is called.
        batches: of a training: tuples or dicts of arrays. This and the rest are `compare_training`'s.
        loss: (flax_loss, torch_loss).
        optimizer: (an optax transformation, a function that makes the torch optimizer).
        clip: the pair of clippings.
        steps: how many.
        training: in training mode; False is evaluation mode, without dropout.
    """

    flax: Any = None
    torch: Any = None
    inputs: Any = ()
    kwargs: Mapping[str, Any] | None = None
    names: Names = ()
    modules: ModuleNames | None = None
    call_flax: Any = None
    call_torch: Any = None
    weights: Any = "torch"
    whole_model: bool = False
    seed: int = 0
    title: str = ""
    batches: Any = None
    loss: Any = None
    optimizer: Any = None
    clip: Any = (None, None)
    steps: int = 20
    training: bool = True

    @classmethod
    def of(cls, value: Any) -> "Port":
        """The port that a user's function means by what it returned.

        Args:
            value: a `Port`; a mapping or a dataclass with some of its fields; or a tuple of the flax module,
                the torch module and the inputs, then for a training the batches, the losses and the
                optimizers; or a flax module alone.

        Raises:
            ValueError: it is something else, or a module of it is none.
        """
        if isinstance(value, cls):
            port = value
        elif isinstance(value, nnx.Module):
            port = cls(flax=value)
        elif isinstance(value, Mapping):
            port = cls(**_known(dict(value)))
        elif is_dataclass(value) and not isinstance(value, type | nnx.Module):
            port = cls(**_known({field.name: getattr(value, field.name) for field in fields(value)}))
        elif isinstance(value, tuple) and 2 <= len(value) <= len(POSITIONS):
            port = cls(**dict(zip(POSITIONS, value, strict=False)))
        else:
            raise ValueError(f"it returned {_described(value)}; expected {EXPECTED}")
        port._check()
        return port

    @property
    def case(self) -> Case:
        """The one call that is compared: a lone array is a lone argument, a dict is of keyword arguments."""
        named = isinstance(self.inputs, Mapping)
        lone = hasattr(self.inputs, "shape") and hasattr(self.inputs, "dtype")
        args = () if named else (self.inputs,) if lone else tuple(self.inputs)
        return Case("", args, {**(self.inputs if named else {}), **(self.kwargs or {})})

    def require(self, *sides: str) -> "Port":
        """The port itself.

        Raises:
            ValueError: it lacks one of `sides`, "flax" or "torch".
        """
        for side in sides:
            if getattr(self, side) is None:
                raise ValueError(f"it returned no {side} module, and this needs one")
        return self

    def _check(self) -> None:
        if is_torch_module(self.flax) and (self.torch is None or isinstance(self.torch, nnx.Module)):
            raise ValueError("it returned the torch module first; the flax module comes before it")
        if not (self.flax is None or isinstance(self.flax, nnx.Module)):
            linen = ": a Linen module, which flax.nnx.bridge.ToNNX wraps" if _is_linen(self.flax) else ""
            raise ValueError(f"its flax module is {_described(self.flax)}, not an nnx.Module{linen}")
        if not (self.torch is None or is_torch_module(self.torch)):
            raise ValueError(f"its torch module is {_described(self.torch)}, not a torch.nn.Module")
        if self.flax is None and self.torch is None:
            raise ValueError("it returned neither a flax nor a torch module")
        if not (
            isinstance(self.inputs, Sequence | Mapping | np.ndarray) or hasattr(self.inputs, "shape")
        ) or isinstance(self.inputs, str):
            raise ValueError(f"its inputs are {_described(self.inputs)}; expected a tuple of arrays")
        require_names(self.names)
        for name, (fits, expected) in FIELDS.items():
            value = getattr(self, name)
            if not fits(value):
                given = repr(value) if isinstance(value, bool | int | float | str) else _described(value)
                raise ValueError(f"{name} must be {expected}, got {given}")


POSITIONS = ("flax", "torch", "inputs", "batches", "loss", "optimizer")
EXPECTED = "(flax module, torch module, inputs), or a dict or jax_attn.parity.port.Port with such entries"


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_modules(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and all(isinstance(k, str) and (v is None or isinstance(v, str)) for k, v in value.items())
    )


def _is_batches(value: Any) -> bool:
    return value is None or (isinstance(value, Iterable) and not isinstance(value, str | Mapping))


def _pair_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple | list) and len(value) == 2 and all(map(fits, value))


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


# What a field must be, where no more is known of it than its kind.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kwargs": (_or_none(lambda value: isinstance(value, Mapping)), "a dict"),
    "modules": (_is_modules, "a dict of Flax paths to torch paths, or to None"),
    "call_flax": (_or_none(callable), "a function of (module, *inputs, **kwargs)"),
    "call_torch": (_or_none(callable), "a function of (module, *inputs, **kwargs)"),
    "weights": (lambda value: value is None or value in ("torch", "flax"), '"torch", "flax" or None'),
    "whole_model": (lambda value: isinstance(value, bool), "True or False"),
    "seed": (lambda value: _is_int(value) and value >= 0, "an integer from 0 up"),
    "title": (lambda value: isinstance(value, str), "text"),
    "batches": (_is_batches, "a list of batches, each a tuple or a dict of arrays"),
    "loss": (_or_none(_pair_of(callable)), "a pair of functions of (module, *batch), flax's and torch's"),
    "optimizer": (
        _or_none(_pair_of(lambda value: value is not None)),
        "a pair: an optax transformation, and a function of the parameters that makes torch's optimizer",
    ),
    "clip": (_pair_of(lambda value: True), "a pair, flax's clipping and torch's; None for none"),
    "steps": (lambda value: _is_int(value) and value >= 1, "an integer from 1 up"),
    "training": (lambda value: isinstance(value, bool), "True or False"),
}


def is_torch_module(value: Any) -> bool:
    """Whether `value` is a torch module, asked without importing torch."""
    return any(
        kind.__module__.split(".")[0] == "torch" and kind.__name__ == "Module" for kind in type(value).__mro__
    )


def _known(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries, if a port has fields of all their names."""
    known = [field.name for field in fields(Port)]
    for name in entries:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
            raise ValueError(f"it returned an entry {name!r} that means nothing here; {hint}")
    return entries


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(each).__name__ for each in value[:6])
        return f"a {type(value).__name__} of {len(value)} ({kinds})"
    if is_torch_tensor(value) or hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return "None" if value is None else f"a {type(value).__name__} ({type(value).__module__})"


def _is_linen(value: Any) -> bool:
    return any(kind.__module__.startswith("flax.linen") for kind in type(value).__mro__)
