"""The keys of a torch module's tensors: those of its `state_dict`, which wrappers and hooks rename there."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from flax import nnx

from jax_attn.weights.families import names_of_checkpoint
from jax_attn.weights.fitting import memory
from jax_attn.weights.rules import Names, slots
from jax_attn.weights.tensors import is_torch_tensor

WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""What DataParallel, `torch.compile` and the like call the module that they hold."""


def state_keys(module: Any) -> dict[str, tuple[str, ...]]:
    """The keys in `state_dict` of each named parameter and buffer; its own name where it has none.

    Tensors are paired by identity. `named_parameters` and `state_dict` disagree where layers are wrapped.

    The names of a recorded module are keys already.
    """
    held: dict[Any, list[str]] = {}
    for key, value in module.state_dict().items():
        if is_torch_tensor(value):
            held.setdefault(memory(value), []).append(key)
    found = {}
    for name, tensor in _named(module):
        keys = held.get(memory(tensor), ()) if is_torch_tensor(tensor) else ()
        found[name] = (name,) if name in keys or not keys else tuple(keys)
    return found


def keyed(named: Iterable[tuple[str, Any]], keys: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Named tensors by their keys."""
    return {key: tensor for name, tensor in named for key in keys.get(name, (name,))}


def parameters_of(module: Any) -> dict[str, Any]:
    """Every parameter by key; one that is shared has several."""
    return keyed(module.named_parameters(remove_duplicate=False), state_keys(module))


def buffers_of(module: Any) -> dict[str, Any]:
    """Every buffer by key."""
    return keyed(module.named_buffers(remove_duplicate=False), state_keys(module))


def names_between(flax: nnx.Module, torch: Any, names: Names) -> Names:
    """What turns Flax's keys into torch's: the names given, and the way through wrappers.

    Without names, a module that was built as a checkpoint says is held to be called as its file, if torch's is.
    """
    theirs = torch.state_dict().keys()

    def ours(names: Names) -> set[str]:
        return {place.key for slot in slots(flax, names) for place in slot.places}

    if not names and (of_file := names_of_checkpoint(flax)):
        names = max((), of_file, key=lambda names: len(ours(names) & theirs))
    return [*names, *through_wrappers(torch, ours(names), theirs)]


def through_wrappers(module: Any, ours: Collection[str], theirs: Collection[str]) -> Names:
    """Pairs for `names` that lead through the wrappers within a torch module.

    Args:
        module: a torch module.
        ours: Flax's keys, renamed as the user asks.
        theirs: those of the `state_dict`.
    """
    rules = []
    for path, wrapper in getattr(module, "named_modules", dict)():
        children = getattr(wrapper, "_modules", {})
        inside = next((name for name in WRAPPERS if list(children) == [name]), None)
        outer = f"{path}." if path else ""
        prefix = f"{outer}{inside}."
        if inside and _any_below(prefix, theirs) and not _any_below(prefix, ours):
            rules.append((f"^{re.escape(outer)}", prefix))
    return rules


def _named(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _any_below(prefix: str, keys: Collection[str]) -> bool:
    return any(key.startswith(prefix) for key in keys)
