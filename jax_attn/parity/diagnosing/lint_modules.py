"""Settings of paired modules that differ, found without running either."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flax import nnx

from jax_attn.parity.diagnosing.activations import Activation
from jax_attn.parity.diagnosing.module_settings import Either, settings_of_flax, settings_of_torch
from jax_attn.parity.mutations.ties import OWN
from jax_attn.parity.runners.torch_keys import names_between
from jax_attn.parity.text import word
from jax_attn.parity.tracing.module_pairs import ModuleNames, pair_modules
from jax_attn.parity.tracing.wrapping import walk
from jax_attn.weights.rules import Names, slots


@dataclass(frozen=True)
class SettingFinding:
    """A setting that differs.

    Attributes:
        flax_path: the module's path in Flax; empty for the module itself.
        torch_path: its counterpart's.
        setting: what differs, by torch's name of it.
        flax: its value there.
        torch: its value there.
    """

    flax_path: str
    torch_path: str
    setting: str
    flax: Any
    torch: Any

    def __str__(self) -> str:
        here = self.flax_path or "the module itself"
        return f"{here}: {self.setting}: flax {word(self.flax)}, torch {word(self.torch)}"


def lint_pair(
    flax_module: nnx.Module, torch_module: Any, names: Names = (), modules: ModuleNames | None = None
) -> list[SettingFinding]:
    """What paired modules were built with, where it differs; only activations are run, on a few numbers.

        lint_pair(nnx.LayerNorm(5, rngs=nnx.Rngs(0)), torch.nn.LayerNorm(5))
        # [the module itself: eps: flax 1e-06, torch 1e-05,
        #  the module itself: variance: flax E[x²] - E[x]², torch E[(x - E[x])²]]

    Compared are eps, momentum, activation, bias, scale, dropout rate, number of heads and of groups, the
    place of norms, strides, padding and dilation, and any number, word or yes-or-no that both modules have
    under one name; and which weights are tied. What a module's code does is not looked at.

    Args:
        flax_module: any NNX module.
        torch_module: its counterpart.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`.
        modules: submodules that belong together where the weights do not decide; see `trace_modules`.
    """
    names = names_between(flax_module, torch_module, names)
    ours = {path: module for module, places in walk(flax_module) for place in places for path in place.all}
    found = []
    for flax_path, torch_path in pair_modules(flax_module, torch_module, names, modules).pairs:
        flax, torch = ours[flax_path], torch_module.get_submodule(torch_path)
        for setting, a, b in _differences(flax, torch):
            found.append(SettingFinding(flax_path, torch_path, setting, a, b))
    return [*found, *_ties(flax_module, torch_module, names)]


def ties_that_differ(flax: nnx.Module, torch: Any, names: Names) -> tuple[list[list[str]], list[list[str]]]:
    """The weights that are one in Flax and several in torch, and the reverse: by identity, not by value.

    Returns:
        Two lists of groups of torch's names; in each group the first stands for the one weight.
    """
    owners = {
        place.key: (id(slot.variable), layer if slot.stacked else 0)
        for slot in slots(flax, names)
        for layer, place in enumerate(slot.places)
        if place.parts == 1
    }
    named = torch.named_parameters(remove_duplicate=False)
    theirs = {key: id(tensor) for key, tensor in named if key in owners}
    found: tuple[list[list[str]], list[list[str]]] = [], []
    for groups, one, other in ((found[0], owners, theirs), (found[1], theirs, owners)):
        together: dict[Any, list[str]] = {}
        for key in theirs:
            together.setdefault(one[key], []).append(key)
        for keys in together.values():
            first = {other[key]: key for key in reversed(keys)}
            if len(first) > 1:
                groups.append(sorted(first.values(), key=keys.index))
    return found


def _ties(flax: nnx.Module, torch: Any, names: Names) -> Iterator[SettingFinding]:
    """What `ties_that_differ` finds, a line for each weight that is another's on one side."""
    paths = {place.key: slot.path for slot in slots(flax, names) for place in slot.places}
    for side, groups in enumerate(ties_that_differ(flax, torch, names)):
        for first, *others in groups:
            for key in others:
                words = (f"the same as {first}", OWN)
                owner, _, leaf = key.rpartition(".")
                yield SettingFinding(
                    paths[key].rpartition(".")[0], owner, leaf, *(words if side == 0 else words[::-1])
                )


def _differences(flax: nnx.Module, torch: Any) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = settings_of_flax(flax), settings_of_torch(torch)
    for setting in [name for name in ours if name in theirs]:
        if not same_setting(setting, ours[setting], theirs[setting]):
            yield setting, _plain(ours[setting]), _plain(theirs[setting])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Activation | Either) else value


RECIPROCAL = re.compile(r".*(scale|scaling|temperature).*")
"""What one multiplies by, another divides by."""


def same_setting(name: str, a: Any, b: Any) -> bool:
    """Whether two values of a setting have the same effect."""
    if isinstance(a, Either):
        return any(same_setting(name, value, b) for value in (a.value, a.other))
    if isinstance(a, Activation) and isinstance(b, Activation):
        return a.agrees(b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a == b
    if isinstance(a, tuple) != isinstance(b, tuple):  # one number for all axes
        numbers, number = (a, b) if isinstance(a, tuple) else (b, a)
        return bool(numbers) and all(same_setting(name, each, number) for each in numbers)
    if isinstance(a, int | float) and isinstance(b, int | float):
        inverse = RECIPROCAL.fullmatch(name) and a and math.isclose(1 / a, b, rel_tol=1e-6)
        return bool(inverse) or math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, str) and isinstance(b, str):
        return a.lower() == b.lower()
    return a == b
