"""Modules into checkpoint folders as Hugging Face lays them out, `config.json` beside weights."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.nn.layers.stack import Stack
from jax_attn.weights.attributes import differing_attributes
from jax_attn.weights.config import CONFIG, NotedConfig, are_labels
from jax_attn.weights.families import FAMILIES, family_of
from jax_attn.weights.family import Family
from jax_attn.weights.files import (
    INDEX,
    SAFETENSORS,
    common_dtype,
    read_json,
    shards_of,
    write_safetensors,
    write_together,
)
from jax_attn.weights.pretrained import BuildOptions, build
from jax_attn.weights.rules import Slot, joined, slots

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def save_pretrained(
    module: nnx.Module,
    folder: str | PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Write `config.json` and `model.safetensors`, in Hugging Face's names, and return the folder.

    `from_pretrained` gives the same module back, bit for bit; transformers reads it too. (A `Bert` with pre-norm or
    sinusoidal positions is no BERT to Hugging Face; it gets a `model_type` of its own, which transformers does not
    take.) All files are written under temporary names first: an interrupted save leaves the checkpoint that was
    there.

    Args:
        module: what `from_pretrained` or `from_config` made, a `Bert` or a `SequenceClassifier`.
        folder: is made if it does not exist. A checkpoint in it is replaced, other files are let alone.
        config: further attributes for `config.json`, such as `id2label` or `pad_token_id`.
        max_shard_size: the most bytes of tensors in a file, or a text like "500MB"; what is more is saved in
            several files with an index.

    Raises:
        ValueError: the module is of another class, or no longer what its config describes (an epsilon or an
            activation was changed by hand); `config` contradicts the module or is not JSON; or the folder's
            `config.json` is not a checkpoint's.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    most = _bytes(max_shard_size)
    family, described = _described(module)
    architecture = described["architectures"][0]
    noted = getattr(module, "config", NotedConfig(described))
    table = slots(module, family.keys(architecture))
    _require_as_described(module, table, family, architecture, described, noted)
    tensors = joined(
        pair
        for slot in table
        for pair in zip(slot.places, slot.to_torch(np.asarray(slot.variable.get_value())), strict=True)
    )
    dtype = common_dtype(tensors)
    tensors.update((key, tensor.astype(dtype)) for key, tensor in noted.unread.items())
    text = _config_text(described, config or {}, dtype)
    _refuse_to_replace(folder)

    folder.mkdir(parents=True, exist_ok=True)
    stale = _weight_files(folder)
    shards = shards_of(tensors, most)
    files: dict[Path, Callable[[Path], object]] = {
        folder / name: partial(write_safetensors, tensors={key: tensors[key] for key in keys})
        for name, keys in shards.items()
    }
    if len(shards) > 1:
        files[folder / (SAFETENSORS + INDEX)] = _writing(_index_text(shards, tensors))
    files[folder / CONFIG] = _writing(text)
    write_together(files)
    for path in stale - files.keys():
        path.unlink(missing_ok=True)
    return folder


def _described(module: nnx.Module) -> tuple[Family, dict[str, Any]]:
    """The family of a module, and its `config.json`: that which it was built from, and what is read off it."""
    noted = getattr(module, "config", None)
    for family in FAMILIES:
        described = None if family.describe is None else family.describe(module)
        if described is not None:
            return family, {**(noted or {}), **described}
    if isinstance(noted, NotedConfig):
        return family_of(noted), dict(noted)
    raise ValueError(
        "save_pretrained takes what from_pretrained or from_config built, a Bert or a SequenceClassifier, got "
        f"{type(module).__name__}; state_dict takes any module"
    )


def _require_as_described(
    module: nnx.Module,
    table: Sequence[Slot],
    family: Family,
    architecture: str,
    described: Mapping[str, Any],
    noted: NotedConfig,
) -> None:
    """Raise ValueError unless a model of the config has the same tensors, and computes the same of them."""
    scan = any(isinstance(part, Stack) and part.stacked for _, part in nnx.iter_modules(module, graph=True))
    options = BuildOptions(ignore=noted.ignored, overrides={**noted.found, "scan": scan})
    fresh = nnx.eval_shape(lambda: build(family, architecture, described, nnx.Rngs(0), options))
    ours, expected = _shapes(table), _shapes(slots(fresh, family.keys(architecture)))
    differ = [
        (key, str(ours.get(key, "missing")), str(expected.get(key, "missing")))
        for key in {**ours, **expected}
        if ours.get(key) != expected.get(key)
    ] or list(differing_attributes(module, fresh))
    if differ:
        what, is_now, by_config = differ[0]
        raise ValueError(
            f"the module is no longer the {architecture} of its config: {what} is {is_now}, and by the config "
            + by_config
            + (f" ({len(differ) - 1} more differ)" if len(differ) > 1 else "")
        )


def _shapes(table: Sequence[Slot]) -> dict[str, tuple[int, ...]]:
    return {place.key: slot.whole_shape(place) for slot in table for place in slot.places}


def _config_text(described: dict[str, Any], further: Mapping[str, Any], dtype: np.dtype[Any]) -> str:
    own = {**described, "dtype": dtype.name}
    for name, value in further.items():
        if name in own and name not in ("id2label", "label2id") and own[name] != value:
            raise ValueError(f"config: {name}={value!r} contradicts the module, which has {own[name]!r}")
    labels = further.get("id2label")
    if labels is not None and not are_labels(labels):
        raise ValueError(f"config: id2label must be a dict from numbers to names, got {labels!r}")
    if labels is not None and len(labels) != described.get("num_labels", len(labels)):
        raise ValueError(f"config: id2label has {len(labels)} labels, the module {described['num_labels']}")
    try:
        return json.dumps({**own, **further}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from None


def _index_text(shards: Mapping[str, Sequence[str]], tensors: Mapping[str, np.ndarray]) -> str:
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    size = sum(tensor.nbytes for tensor in tensors.values())
    return json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2) + "\n"


def _writing(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _weight_files(folder: Path) -> set[Path]:
    """What another checkpoint in the folder consists of: it would be read in place of the new one."""
    index = folder / (SAFETENSORS + INDEX)
    shards = read_json(index).get("weight_map", {}).values() if index.is_file() else ()
    names = {
        SAFETENSORS,
        index.name,
        *(name for name in shards if re.fullmatch(r"[\w.-]+\.safetensors", name)),
    }
    return {folder / name for name in names}


def _bytes(size: int | str) -> int:
    match = re.fullmatch(r"(\d+) ?([KMG]B)", size) if isinstance(size, str) else None
    most = int(match[1]) * UNITS[match[2]] if match else size
    if not isinstance(most, int) or most < 1:
        raise ValueError(f'max_shard_size must be a number of bytes, or like "5GB", got {size!r}')
    return most


def _refuse_to_replace(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and a checkpoint is a folder")
    path = folder / CONFIG
    if path.exists() and "model_type" not in read_json(path):
        raise ValueError(f"{path} has no model_type, so it is not a checkpoint's, and is not replaced")
