"""What a torch `state_dict` says of its own layout: fused projections, and tensors of two names."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.weights.rules import (
    Names,
    Place,
    Slot,
    TorchLayout,
    layout_noted,
    rename,
    require_names,
    slots,
    walk,
)
from jax_attn.weights.tensors import as_numpy, is_torch_tensor

# What models call the projections of their attention. Only names that cannot mean anything else: whether one tensor
# called `qkv` holds its parts one after the other or head by head, for example, neither name nor shape tells.
PROJECTIONS = (
    ("query", "key", "value"),
    ("self.query", "self.key", "self.value"),
    ("attention.query", "attention.key", "attention.value"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
    ("W_query", "W_key", "W_value"),
    ("W_q", "W_k", "W_v"),
    ("wq", "wk", "wv"),
    ("Wq", "Wk", "Wv"),
    ("w_q", "w_k", "w_v"),
    ("w_qs", "w_ks", "w_vs"),
    ("to_q", "to_k", "to_v"),
    ("q_lin", "k_lin", "v_lin"),
    ("linear_q", "linear_k", "linear_v"),
)
OUTPUTS = (
    "out",
    "o_proj",
    "o",
    "proj",
    "dense",
    "output.dense",
    "W_o",
    "wo",
    "Wo",
    "w_o",
    "fc",
    "fc_out",
    "to_out.0",
    "to_out",
    "out_lin",
    "linear_out",
)


def fit(module: nnx.Module, state_dict: Mapping[str, Any], names: Names) -> TorchLayout:
    """The layout of `module` in torch that `state_dict` shows, where the generic rule is not the one.

    Args:
        module: an NNX module; what its `torch_layout` says stays.
        state_dict: the tensors by torch key.
        names: pairs (pattern, replacement) that turn our keys into those of `state_dict`.
    """
    require_names(names)
    attentions = dict.fromkeys(_attentions(module))
    rules = chain.from_iterable(_projections(*keys, state_dict, names) for keys in attentions)
    own = layout_noted(module)
    layout = TorchLayout((*own.names, *dict.fromkeys(rules)), own.tied)
    table = slots(module, names, layout)
    held: dict[str, list[tuple[Place, str]]] = defaultdict(list)
    for slot in table:
        for place in slot.places if not slot.stacked else ():
            held[place.key].append((place, slot.path))
    tied = (
        (replace(place, key=key, literal=True), path)
        for key, other in ties(table, state_dict).items()
        for place, path in held[other]
    )
    return TorchLayout(layout.names, (*layout.tied, *tied))


def _attentions(module: nnx.Module) -> Iterator[tuple[str, str]]:
    """The generic keys, up to the projection, of each attention, and one of its fused keys."""
    for slot in walk(module):
        for place in slot.places:
            if place.alone.endswith("query.weight"):
                yield place.alone.removesuffix("query.weight"), place.key


def _projections(
    prefix: str, fused: str, state_dict: Mapping[str, Any], names: Names
) -> Iterator[tuple[str, str]]:
    """The rules for an attention whose projections torch keeps apart; none where it fuses them."""

    def given(name: str) -> bool:
        return rename(f"{prefix}{name}.weight", names) in state_dict

    if rename(fused, names) in state_dict:
        return
    parts = next((parts for parts in PROJECTIONS if all(map(given, parts))), None)
    if parts is None:
        return
    # One rule serves all layers: their numbers are taken over.
    numbers = iter(range(1, len(prefix)))
    pattern = re.sub(r"(?<![^.])\d+(?=\\\.)", r"(\\d+)", re.escape(prefix))
    replacement = re.sub(r"(?<![^.])\d+(?=\.)", lambda match: rf"\{next(numbers)}", prefix)
    own = list(zip(("query", "key", "value"), parts, strict=True))
    if not given("out_proj"):
        own += [("out_proj", output) for output in OUTPUTS if given(output)][:1]
    for ours, theirs in own:
        yield rf"^{pattern}{ours}\.", f"{replacement}{theirs}."


def ties(table: Sequence[Slot], state_dict: Mapping[str, Any], by_value: bool = True) -> dict[str, str]:
    """The keys of `state_dict` that `table` has none for, but whose tensor it has under another key: that key.

    Args:
        table: the slots.
        state_dict: the tensors by torch key.
        by_value: whether a tensor counts that is equal bit for bit, and not only one that lies in the same memory;
            a file may not tell. A vector or a constant tensor never does: a bias of zeros equals many. Nor does
            that of another layer: a stack may start from copies of one.
    """
    expected = {place.key for slot in table for place in slot.places}
    held = [key for key in state_dict if key in expected]
    # What is read anew each time it is asked for lies in memory that the next tensor may get.
    by_memory = {memory(state_dict[key]): key for key in held} if isinstance(state_dict, dict) else {}
    found = {}
    for key in state_dict:
        if key in expected:
            continue
        tensor = state_dict[key]
        other = by_memory.get(memory(tensor))
        if other is None and by_value and len(shape := np.shape(tensor)) > 1:
            role = _without_numbers(key)
            alike = (
                each
                for each in held
                if np.shape(state_dict[each]) == shape and _without_numbers(each) != role
            )
            other = next((each for each in alike if _equal(tensor, state_dict[each])), None)
        if other is not None:
            found[key] = other
    return found


def memory(value: Any) -> Any:
    """Where a tensor lies: the same for one that goes by two names."""
    if 0 in np.shape(value):
        return id(value)
    if is_torch_tensor(value):
        return str(value.device), value.data_ptr(), tuple(value.shape), tuple(value.stride())
    if not np.shape(value) or not hasattr(value, "__array_interface__"):
        return id(value)
    return "", value.__array_interface__["data"][0], value.shape, value.strides


def _without_numbers(key: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", key)


def _equal(one: Any, other: Any) -> bool:
    try:
        a, b = as_numpy(one), as_numpy(other)
    except Exception:  # a tensor without data is told of where it is read
        return False
    return a.dtype == b.dtype and a.tobytes() == b.tobytes() and bool((a != a.flat[0]).any())
