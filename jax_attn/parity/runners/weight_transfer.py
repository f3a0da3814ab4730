"""The same weights for both sides of a comparison.

Loading weights is strict (`load_state_dict`), for a weight that is lost there is lost for good. A comparison
may do with less: what has no counterpart and learns nothing is left out, and listed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.lanes import is_floating
from jax_attn.parity.report import LeftOut
from jax_attn.parity.runners.torch_copy import copied
from jax_attn.parity.runners.torch_keys import buffers_of, names_between, parameters_of
from jax_attn.weights.errors import NamesError, StateDictError
from jax_attn.weights.fitting import fit, ties
from jax_attn.weights.layouts import SAME
from jax_attn.weights.rules import Names, Slot, TorchLayout, rename, slots
from jax_attn.weights.state_dict import assign, find_errors, misfit, remember, state_dict
from jax_attn.weights.tensors import as_numpy, as_torch

Weights = Literal["torch", "flax"] | None

WAY_OUT = (
    "names=[(pattern, replacement)] renames Flax's keys; or load both sides yourself, and pass weights=None"
)
MOST_ERRORS = 8
LEARNED = ("running_mean", "running_var", "num_batches_tracked")  # buffers of what was seen in training


@dataclass
class Carried:
    """The two modules, what of their weights is not compared, each with its reason, and the names to go by."""

    flax: Any
    torch: Any
    left_out: dict[str, str] = field(default_factory=dict)
    names: Names = ()

    def left_out_in(self, lane: str) -> list[LeftOut]:
        """What is left out; where it is the same in many layers, once."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, reason in self.left_out.items():
            alike = re.sub(r"(?<![^.])\d+(?![^.])", "*", name), re.sub(r"\.\d+\.", ".*.", reason)
            found.setdefault(alike, []).append(name)
        return [
            LeftOut("", lane, *((names[0], self.left_out[names[0]]) if len(names) == 1 else alike))
            for alike, names in found.items()
        ]


def carry(flax: nnx.Module, torch: Any, weights: Weights, names: Names) -> Carried:
    """The two modules with the same weights; the one that receives them is a copy.

    Args:
        flax: any NNX module.
        torch: any torch module, or a recorded one.
        weights: whose weights both get; None leaves each its own.
        names: pairs (pattern, replacement) that turn Flax's keys into torch's.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: one of the modules is none, or `weights` is something else.
    """
    require_sides(flax, torch)
    if weights not in ("torch", "flax", None):
        raise ValueError(f'weights must be "torch", "flax" or None, got {weights!r}')
    names = names_between(flax, torch, names)
    if weights is None:
        return Carried(flax, torch, names=names)
    receiver = nnx.clone(flax, graph=True)
    fitting = Fitting(receiver, torch, names)
    if errors := fitting.errors():
        message = f"torch's weights do not fit flax's {type(flax).__name__}"

        def errors_with(other: Names) -> list[str]:
            return Fitting(nnx.clone(flax, graph=True), torch, other).errors()

        error = misfit(message, receiver, names, dict(torch.state_dict()), errors, errors_with)
        if isinstance(error, NamesError):
            raise error
        raise StateDictError(message, errors, [*error.advice, WAY_OUT], MOST_ERRORS)
    if weights == "torch":
        fitting.load()
        return Carried(receiver, torch, fitting.left_out, names)
    theirs = copied(torch)
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if fitting.width is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(as_torch(np.zeros(0, fitting.width)).dtype)
    sender = nnx.clone(flax, graph=True)
    remember(sender, fitting.layout)
    own = {key: value for key, value in state_dict(sender, names=names).items() if key in fitting.given}
    theirs.load_state_dict(own, strict=False)
    held = {**parameters_of(theirs), **buffers_of(theirs)}
    for key in own.keys() & held.keys():  # by identity: what renames on saving may not do so on loading
        held[key].data.copy_(own[key])
    return Carried(sender, theirs, fitting.left_out, names)


class Fitting:
    """Which of torch's tensors go where in Flax, and what is left out, with the reason.

    Attributes:
        table: the slots that are given something.
        given: what they are given, and what should not be there; in the dtypes of `table`.
        left_out: keys that take no part.
        width: the dtype that holds every weight of either side, where their dtypes differ.
    """

    def __init__(self, flax: nnx.Module, torch: Any, names: Names):
        state = dict(torch.state_dict())
        self.given = {key: value for key, value in state.items() if hasattr(value, "shape")}
        self.layout = layout_shown(flax, torch, self.given, names)
        remember(flax, self.layout)
        self.table = slots(flax, names)
        self.left_out = dict.fromkeys(state.keys() - self.given.keys(), "state of torch that is no tensor")
        self.width: np.dtype[Any] | None = None
        self.untracked = _untracked(torch)
        frozen = {key for key, parameter in parameters_of(torch).items() if not parameter.requires_grad}
        self._leave_out_constants(set(buffers_of(torch)), frozen)
        self._leave_out_untracked()
        self._leave_out_shared()
        self._widen(flax)

    @property
    def expected(self) -> dict[str, Slot]:
        """The slots by torch key."""
        return {place.key: slot for slot in self.table for place in slot.places}

    def errors(self) -> list[str]:
        """What does not fit."""
        return find_errors(self.table, self.given, by_value=False)

    def load(self) -> None:
        """Write it all into the variables."""
        with jax.enable_x64(True):
            assign(self.table, self.given)

    def _leave_out(self, slot: Slot, reason: str) -> None:
        self.table.remove(slot)
        for place in slot.places:
            self.given.pop(place.key, None)
            self.left_out[place.key] = reason

    def _leave_out_constants(self, buffers: set[str], frozen: set[str]) -> None:
        """Masks, tables, positions: each side has its own, and what they do is seen in the outputs."""
        expected, constants = self.expected, buffers | frozen
        for key in [key for key in self.given if key in constants and key not in expected]:
            if key.rpartition(".")[2] not in LEARNED:
                del self.given[key]
                word = "a buffer of torch" if key in buffers else "frozen in torch"
                self.left_out[key] = f"{word}; flax has none of this name"
        for slot in [slot for slot in self.table if _is_constant(slot)]:
            keys = [place.key for place in slot.places]
            if not any(key in self.given for key in keys):
                reason = "a constant of flax; torch has none of this name"
            elif all(key in constants and _is_another(slot, self.given.get(key)) for key in keys):
                reason = "a constant on both sides, of another shape or dtype: each keeps its own"
            else:
                continue
            self._leave_out(slot, reason)

    def _leave_out_untracked(self) -> None:
        """Running statistics, where torch takes those of the batch instead: a difference shows in the outputs."""
        for slot in [slot for slot in self.table if isinstance(slot.variable, nnx.BatchStat)]:
            if all(place.key in self.untracked for place in slot.places):
                self._leave_out(slot, "a statistic of flax, which torch does not track")

    def _leave_out_shared(self) -> None:
        """One tensor of several names, some of which the other side does not have."""
        for key, other in ties(self.table, self.given, by_value=False).items():
            del self.given[key]
            self.left_out[key] = f"torch's {other} by another name, which flax does not have"
        whole = {
            id(slot.variable): slot
            for slot in self.table
            if all(place.key in self.given for place in slot.places)
        }
        for slot in list(self.table):
            other = whole.get(id(slot.variable))
            if other is not None and not any(place.key in self.given for place in slot.places):
                self.table.remove(slot)
                for mine, its in zip(slot.places, other.places, strict=True):
                    self.left_out[mine.key] = f"flax's {its.key} by another name, which torch does not have"

    def _widen(self, flax: nnx.Module) -> None:
        """Where the dtypes of weights differ, `flax` gets one that holds either; each lane casts it."""
        expected = self.expected
        dtypes = {key: _dtype(self.given[key]) for key in self.given if key in expected}
        pairs = {(theirs, expected[key].dtype) for key, theirs in dtypes.items()}
        pairs = {(a, b) for a, b in pairs if a != b and _is_float(a) and _is_float(b)}
        if not pairs:
            return
        with jax.enable_x64(True):
            self.width = np.dtype(jnp.result_type(*(dtype for pair in pairs for dtype in pair)))
            for _, node in nnx.iter_modules(flax, graph=True):
                if isinstance(node, nnx.Embed) and node.dtype == node.embedding.dtype:
                    node.dtype = self.width  # it was not given one of its own
            for variable in {id(slot.variable): slot.variable for slot in self.table}.values():
                if is_floating(value := variable.get_value()):
                    variable.set_value(jnp.asarray(np.asarray(value), self.width))
        for key, theirs in dtypes.items():
            if _is_float(theirs):
                self.given[key] = as_numpy(self.given[key]).astype(self.width)
        widths = " and ".join(sorted(f"{theirs} in torch, {ours} in flax" for theirs, ours in pairs))
        self.left_out["dtype of the weights"] = (
            f"{widths}: the numbers are the same, and each lane casts them"
        )


def layout_shown(flax: nnx.Module, torch: Any, given: Mapping[str, Any], names: Names) -> TorchLayout:
    """How torch lays out the weights of `flax`: as keys, shapes and the classes of torch's modules show."""
    layout = fit(flax, given, names)
    layout = TorchLayout(layout.names)  # a tensor of two names is listed in the report, not remembered
    turned = _transposed(torch)
    if not turned:
        return layout
    rules = tuple(
        (rf"^{re.escape(key)}$", f"{key}.T")
        for key in _generic_keys(flax, layout)
        if re.sub(r"\[\d+\]$", "", rename(key, names)) in turned
    )
    return TorchLayout((*layout.names, *rules), layout.tied)


def _generic_keys(flax: nnx.Module, layout: TorchLayout) -> list[str]:
    """The keys of matrices that Flax keeps the other way round than `torch.nn.Linear`."""
    table = slots(flax, (), layout)
    return [
        place.key
        for slot in table
        for place in slot.places
        if slot.layout is not SAME and not place.transposed
    ]


def _transposed(torch: Any) -> set[str]:
    """The keys of weights that lie as (in, out): those of transformers' `Conv1D`."""
    return {
        f"{name}.weight".lstrip(".")
        for name, module in _modules(torch)
        if type(module).__name__ == "Conv1D" and getattr(module.weight, "ndim", 0) == 2
    }


def _untracked(torch: Any) -> set[str]:
    """The keys of running statistics that a norm of torch could track, and does not."""
    return {
        f"{name}.{buffer}".lstrip(".")
        for name, module in _modules(torch)
        for buffer in LEARNED
        if buffer in module._buffers and module._buffers[buffer] is None
    }


def _modules(torch: Any) -> list[tuple[str, Any]]:
    """The modules of torch by path; none of a recorded one."""
    named = getattr(torch, "named_modules", None)
    return [] if named is None else list(named(remove_duplicate=False))


def require_sides(flax: Any, torch: Any) -> None:
    """Raise ValueError unless `flax` is a module of Flax and `torch` one of torch."""
    for name, value, fits, kind in (
        ("flax_module", flax, isinstance(flax, nnx.Module), "flax.nnx.Module"),
        ("torch_module", torch, hasattr(torch, "named_buffers"), "torch.nn.Module"),
    ):
        if not fits:
            order = "; the flax module comes first" if hasattr(flax, "named_buffers") else ""
            raise ValueError(f"{name} must be a {kind}, got a {type(value).__name__}{order}")
    for name, module in _modules(torch):
        own = f"torch_module{'.' if name else ''}{name}"
        if "ScriptModule" in {base.__name__ for base in type(module).__mro__}:
            raise ValueError(
                f"{own} is compiled by torch.jit, which cannot be looked into: compare its original"
            )
        if any("Uninitialized" in type(tensor).__name__ for tensor in module._parameters.values()):
            raise ValueError(f"{own} has weights of no shape yet: call the torch module once before")


def _is_constant(slot: Slot) -> bool:
    return not isinstance(slot.variable, nnx.Param | nnx.BatchStat)


def _is_another(slot: Slot, value: Any) -> bool:
    """Whether a tensor has another shape than the slot, or is of numbers where that is of True and False."""
    if value is None:
        return True
    return tuple(value.shape) != slot.torch_shape or _is_float(_dtype(value)) != _is_float(slot.dtype)


def _dtype(value: Any) -> np.dtype[Any]:
    try:
        return np.dtype(jnp.dtype(str(value.dtype).removeprefix("torch.")))
    except TypeError:  # one that JAX does not have, such as a quantised one
        return np.dtype(object)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))
