"""The same weights for both sides of a comparison.

Loading weights is strict (`load_state_dict`), for a weight that is lost there is lost for good. A comparison
may do with less: what has no counterpart and learns nothing is left out, and told.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.lanes import is_floating
from jax_attn.parity.report import LeftOut
from jax_attn.parity.runners.torch_copy import copied
from jax_attn.parity.runners.torch_keys import buffers_of, memory, parameters_of, through_wrappers
from jax_attn.weights.remedies import remedies
from jax_attn.weights.rules import Names, Slot, slots
from jax_attn.weights.state_dict import StateDictError, assign, find_faults, state_dict
from jax_attn.weights.tensors import as_numpy, as_torch

Weights = Literal["torch", "flax"] | None

WAY_OUT = (
    "names=[(pattern, replacement)] renames Flax's keys; or load both sides yourself, and pass weights=None"
)
MOST_MUTATIONS = 8
LEARNED = ("running_mean", "running_var", "num_batches_tracked")  # buffers of what was seen in training


@dataclass
class Carried:
    """The two modules, what of their weights is not compared, each with its reason, and the names to go by."""

    flax: Any
    torch: Any
    left_out: dict[str, str] = field(default_factory=dict)
    names: Names = ()

    def told(self, lane: str) -> list[LeftOut]:
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
    ours = {place.key for slot in slots(flax, names) for place in slot.places}
    names = [*names, *through_wrappers(torch, ours, torch.state_dict().keys())]
    if weights is None:
        return Carried(flax, torch, names=names)
    receiver = nnx.clone(flax, graph=True)
    fitting = Fitting(receiver, torch, names)
    mutations = find_faults(fitting.table, fitting.given)
    if mutations:
        raise StateDictError(
            f"torch's weights do not fit flax's {type(flax).__name__}",
            mutations,
            [*remedies(receiver, fitting.table, fitting.given), WAY_OUT],
            MOST_MUTATIONS,
        )
    if weights == "torch":
        fitting.load()
        return Carried(receiver, torch, fitting.left_out, names)
    theirs = copied(torch)
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if fitting.width is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(as_torch(np.zeros(0, fitting.width)).dtype)
    own = {key: value for key, value in state_dict(flax, names=names).items() if key in fitting.given}
    theirs.load_state_dict(own, strict=False)
    held = {**parameters_of(theirs), **buffers_of(theirs)}
    for key in own.keys() & held.keys():  # by identity: what renames on saving may not do so on loading
        held[key].data.copy_(own[key])
    return Carried(flax, theirs, fitting.left_out, names)


class Fitting:
    """Which of torch's tensors go where in Flax, and what is left out, with the reason.

    Attributes:
        table: the slots that are given something.
        given: what they are given, and what should not be there; in the dtypes of `table`.
        left_out: keys that take no part.
        width: the dtype that holds every weight of either side, where their dtypes differ.
    """

    def __init__(self, flax: nnx.Module, torch: Any, names: Names):
        self.table = slots(flax, names)
        state = dict(torch.state_dict())
        self.given = {key: value for key, value in state.items() if hasattr(value, "shape")}
        self.left_out = dict.fromkeys(state.keys() - self.given.keys(), "state of torch that is no tensor")
        self.width: np.dtype[Any] | None = None
        self._leave_out_constants(set(buffers_of(torch)))
        self._leave_out_shared()
        self._widen(flax)

    @property
    def expected(self) -> dict[str, Slot]:
        """The slots by torch key."""
        return {place.key: slot for slot in self.table for place in slot.places}

    def load(self) -> None:
        """Write it all into the variables."""
        with jax.enable_x64(True):
            assign(self.table, self.given)

    def _leave_out_constants(self, buffers: set[str]) -> None:
        """Masks, tables, positions: each side has its own, and what they do is seen in the outputs."""
        expected = self.expected
        for key in [key for key in self.given if key in buffers and key not in expected]:
            if key.rpartition(".")[2] not in LEARNED:
                del self.given[key]
                self.left_out[key] = "a buffer of torch; flax has none of this name"
        for slot in [slot for slot in self.table if _is_constant(slot)]:
            keys = [place.key for place in slot.places]
            if not any(key in self.given for key in keys):
                reason = "a constant of flax; torch has none of this name"
            elif all(key in buffers and _is_another(slot, self.given.get(key)) for key in keys):
                reason = "a constant on both sides, of another shape or dtype: each keeps its own"
            else:
                continue
            self.table.remove(slot)
            for key in keys:
                self.given.pop(key, None)
                self.left_out[key] = reason

    def _leave_out_shared(self) -> None:
        """One tensor of several names, some of which the other side does not have."""
        expected = self.expected
        held = {memory(self.given[key]): key for key in self.given if key in expected}
        for key in [key for key in self.given if key not in expected]:
            other = held.get(memory(self.given[key]))
            if other is not None:
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
        told = " and ".join(sorted(f"{theirs} in torch, {ours} in flax" for theirs, ours in pairs))
        self.left_out["dtype of the weights"] = f"{told}: the numbers are the same, and each lane casts them"


def require_sides(flax: Any, torch: Any) -> None:
    """A ValueError unless the one is a module of Flax, and the other one of torch."""
    for name, value, fits, kind in (
        ("flax_module", flax, isinstance(flax, nnx.Module), "flax.nnx.Module"),
        ("torch_module", torch, hasattr(torch, "named_buffers"), "torch.nn.Module"),
    ):
        if not fits:
            order = "; the flax module comes first" if hasattr(flax, "named_buffers") else ""
            raise ValueError(f"{name} must be a {kind}, got a {type(value).__name__}{order}")


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
