"""What can be done about a `state_dict` that does not fit: the last lines of the error."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.weights.rules import Names, Slot, rename

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MOST_KEYS = 400  # a model with more of them repeats itself
MOST_RULES = 8
NEAREST = 8  # of a tensor's possible names, those that are tried
OWN_TRANSPOSE = r"\1.T"


def remedies(module: nnx.Module, table: Sequence[Slot], state_dict: Mapping[str, Any]) -> list[str]:
    """A line for each thing that would mend some of the errors.

    Args:
        module: the Flax module.
        table: its slots.
        state_dict: what does not fit them.
    """
    given = {key: tuple(np.shape(value)) for key, value in state_dict.items()}
    lines = [
        *_parametrized(given),
        *_stacks(module, table, given),
        *_untracked(table, given),
        *_tied(table, given),
    ]
    if turned := transposing(table, state_dict):
        lines.append(
            f"{_several(_turned(table, given))} the transpose of what is expected, as transformers' Conv1D keeps "
            f"it: names={turned} turns such tensors, square ones too"
        )
    rules, mended, missing = renaming(table, state_dict)
    if rules:
        lines.append(f"names={rules} would find {mended} of the {missing} that are missing")
    return list(dict.fromkeys(lines))


def _parametrized(given: Shapes) -> Iterator[str]:
    """Weights that torch computes from others before each call."""
    for key in given:
        match = re.fullmatch(r"(?:(.+)\.)?parametrizations\.([^.]+)\.original\d*", key)
        if match:
            owner, name = "module" + (f".{match[1]}" if match[1] else ""), match[2]
            yield (
                f"torch computes {name} of {owner} from other tensors; "
                f'torch.nn.utils.parametrize.remove_parametrizations({owner}, "{name}") leaves it as it is'
            )
        path, _, last = key.rpartition(".")
        owner = f"module.{path}" if path else "module"
        if last == "weight_g" and f"{path}.weight_v".lstrip(".") in given:
            yield f"torch.nn.utils.remove_weight_norm({owner}) leaves the weight that they make up"
        if last == "weight_orig":
            yield f"torch.nn.utils.remove_spectral_norm({owner}) leaves the weight that it makes up"


def _stacks(module: nnx.Module, table: Sequence[Slot], given: Shapes) -> Iterator[str]:
    """Layers that Flax holds as one stack, undeclared."""
    for slot in table:
        key, shape = slot.places[0].key, slot.layer_shape
        if slot.stacked or key in given or not shape:
            continue
        parts = key.split(".")
        for depth in range(1, len(parts)):
            below = ".".join(parts[depth:])
            layers = [f"{'.'.join(parts[:depth])}.{number}.{below}" for number in range(shape[0])]
            if all(sorted(given.get(layer, ())) == sorted(shape[1:]) and layer in given for layer in layers):
                path = slot.path.split(".")[: depth - len(parts)]
                yield (
                    f"{'.'.join(path)} is a stack of {shape[0]} layers here, and "
                    f"{parts[depth - 1]}.0 to {parts[depth - 1]}.{shape[0] - 1} there: "
                    f'say so with stacked = ("{path[-1]}",) in class {_class_at(module, path[:-1])}'
                )
                break


def _class_at(module: Any, path: Sequence[str]) -> str:
    for part in path:
        if isinstance(module, list | tuple | nnx.List):
            module = module[int(part)]
        else:
            module = module[part] if isinstance(module, dict) else getattr(module, part)
    return type(module).__name__


def transposing(table: Sequence[Slot], state_dict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pair for `names` that turns matrices that lie the other way round, and square ones of the same names."""
    turned = _turned(table, {key: tuple(np.shape(value)) for key, value in state_dict.items()})
    if not turned:
        return []
    tails = dict.fromkeys(".".join(key.split(".")[-2:]) for key in turned)
    fused = any(place.parts > 1 for slot in table for place in slot.places if place.key in turned)
    end = r"(?=$|\[)" if fused else "$"
    return [(rf"\b({'|'.join(map(re.escape, tails))}){end}", OWN_TRANSPOSE)]


def _turned(table: Sequence[Slot], given: Shapes) -> list[str]:
    """The keys of tensors that have the shape of the transpose of what is expected."""
    return [
        place.key
        for slot in table
        for place in slot.places
        if place.key in given
        and given[place.key] != slot.whole_shape(place)
        and given[place.key][::-1] == slot.whole_shape(place)
    ]


def _several(keys: Sequence[str]) -> str:
    return f"{keys[0]} is" if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more are"


def _untracked(table: Sequence[Slot], given: Shapes) -> Iterator[str]:
    """Running statistics that torch did not keep."""
    missing = [
        place.key
        for slot in table
        for place in slot.places
        if isinstance(slot.variable, nnx.BatchStat) and place.key not in given
    ]
    if missing:
        yield (
            f"torch tracks no statistics where {missing[0]} would be (track_running_stats=False): call the module "
            "with use_running_average=False, and load with strict=False"
        )


def _tied(table: Sequence[Slot], given: Shapes) -> Iterator[str]:
    """A matrix more than is expected, where a lone other has its shape: that may do for both."""
    ours = {place.key for slot in table for place in slot.places}
    unexpected = [key for key in given if key not in ours and len(given[key]) > 1]
    if ours <= given.keys() and len(unexpected) == 1:
        [key] = unexpected
        alike = [other for other in given if other in ours and given[other] == given[key]]
        if len(alike) == 1:
            yield f"if {alike[0]} serves for {key} too, as in a tied head, they are one here and two there"


def renaming(table: Sequence[Slot], state_dict: Mapping[str, Any]) -> tuple[list[tuple[str, str]], int, int]:
    """Pairs for `names`, how many missing keys they find in `state_dict`, and how many there are."""
    given = {key: tuple(np.shape(value)) for key, value in state_dict.items()}
    ours = {place.key: slot.whole_shape(place) for slot in table for place in slot.places}
    missing = {key: ours[key] for key in list(ours)[:MOST_KEYS] if key not in given}
    unexpected = {key: given[key] for key in list(given)[:MOST_KEYS] if key not in ours}
    fitting = [key for key in ours if key in given]

    def found(names: Names) -> int:
        """How many they find; none if they lose one that fits."""
        if any(rename(key, names) != key for key in fitting):
            return 0
        return len({name for key in missing if unexpected.get(name := rename(key, names)) == missing[key]})

    rules: list[tuple[str, str]] = []
    for key, shape in missing.items():
        alike = [name for name, other in unexpected.items() if other == shape]
        if len(rules) == MOST_RULES or unexpected.get(rename(key, rules)) == shape or not alike:
            continue
        # Of the nearest names the one that finds most: a bias fits many a module, its weight beside it few.
        nearest = sorted(alike, key=lambda name: _likeness(key, name), reverse=True)[:NEAREST]
        proposed = [
            [*rules, *(step for step in _steps(key.split("."), name.split(".")) if step not in rules)]
            for name in nearest
        ]
        best = max(proposed, key=found)
        if found(best) > found(rules):
            rules = best
    return rules, found(rules), len(missing)


def _likeness(ours: str, theirs: str) -> tuple[float, float]:
    parts = difflib.SequenceMatcher(None, ours.split("."), theirs.split(".")).ratio()
    return parts, difflib.SequenceMatcher(None, ours, theirs).ratio()


def _steps(ours: list[str], theirs: list[str]) -> Iterator[tuple[str, str]]:
    """The pairs that turn the one key into the other."""
    for kind, start, end, other_start, other_end in difflib.SequenceMatcher(None, ours, theirs).get_opcodes():
        old, new = r"\.".join(map(re.escape, ours[start:end])), ".".join(theirs[other_start:other_end])
        if kind == "replace":
            yield rf"\b{old}\b", new
        elif kind == "delete":
            yield rf"\b{old}\.", ""
        elif kind == "insert" and start == 0:
            yield r"^", f"{new}."
        elif kind == "insert" and start == len(ours):
            yield r"$", f".{new}"
        elif kind == "insert":
            yield rf"\b{re.escape(ours[start])}\b", f"{new}.{ours[start]}"
