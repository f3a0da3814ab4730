"""Checkpoint folders as Hugging Face lays them out, `config.json` beside weights, to modules and back."""

import json
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jax_attn.models.part import Part
from jax_attn.nn.primitives import Buffer
from jax_attn.weights.config import BUILDING, CONFIG, NotedConfig, matches, model_arguments, read_config
from jax_attn.weights.families import FAMILIES, family_of
from jax_attn.weights.family import Family
from jax_attn.weights.files import (
    SAFETENSORS,
    LazyTensors,
    is_floating,
    open_tensors,
    read_json,
    write_safetensors,
    write_together,
)
from jax_attn.weights.gguf import GgufFile, is_gguf
from jax_attn.weights.plan import plan_for
from jax_attn.weights.rules import Names, require_names, slots
from jax_attn.weights.state_dict import assign, find_errors, misfit, numpy_state_dict


def from_pretrained(
    folder: str | PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    seed: int = 0,
    architecture: str | None = None,
    names: Names = (),
    ignore: Collection[str] = (),
    **overrides: Any,
) -> Any:
    """The model of a checkpoint folder: `config.json` with `model.safetensors` or `pytorch_model.bin`.

    `model_type` and `architectures` in `config.json` say what it is; of a head that is not known here it is the
    model without it. The module is in eval mode, as Hugging Face's is: `module.train()` turns dropout on.

    The weights may lie in shards, and a `pytorch_model.bin` needs torch. They are mapped into memory and
    copied tensor by tensor into a module that has no weights of its own, so there is never a second copy.

    A `UserWarning` says what of the checkpoint is left out (the head of another task), that there is no pooler
    where the checkpoint has none, and which prefix was taken off its keys.

    Args:
        folder: the checkpoint's folder, or a GGUF file, whose weights are dequantised.
        dtype: dtype to compute in; None is that of the parameters.
        param_dtype: dtype of the parameters; None keeps the checkpoint's (float32, or float64, where it mixes
            several).
        seed: seed of the dropout streams.
        architecture: another class of the family, by the name that `architectures` would have, that of the family
            left out or not: "Model" is the model without a head, "ForMaskedLM" a masked LM.
        names: pairs (pattern, replacement) that turn Hugging Face's keys into those of the file, where it has
            others. A prefix that all of them carry (`module.`, `_orig_mod.`, `model.`, ...) is taken off without.
        ignore: shell-like patterns, for those who know better: attributes of `config.json` that change
            nothing in what the model computes, and tensors to leave out, without a warning.
        overrides: further arguments of the module, such as `scan=True`, or others than `config.json` gives.

    Raises:
        FileNotFoundError: no such folder, or `config.json` or weights are missing.
        ValueError: a file is corrupt; `config.json` is of another model type, asks for something that
            changes the mathematics and is not supported, or has an attribute that is not known here.
        StateDictError: a ValueError that tells every tensor that is missing, unexpected, of a wrong shape or
            not finite.
        ModuleNotFoundError: the weights are in torch's format and torch is not installed.
    """
    folder = Path(folder)
    config, tensors = _opened(folder)
    family = family_of(config, folder / CONFIG)
    chosen = family.architecture(config, architecture)
    tensors = tensors.without([key for key in tensors if matches(key, ignore)])
    require_names(names)
    try:
        plan = plan_for(family, chosen, list(tensors), names)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    tensors = tensors.without(plan.left_out)
    param_dtype = _available(_common_dtype(tensors) if param_dtype is None else np.dtype(param_dtype), folder)
    options = BuildOptions(dtype, param_dtype, ignore, overrides, plan.settings)
    try:
        module = without_weights(lambda: build(family, chosen, config, nnx.Rngs(seed), options))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None
    expected = {place.key for slot in slots(module, plan.names) for place in slot.places}
    doubles, parts = plan.not_for(expected, list(tensors))
    _load(module, tensors.without([*doubles, *parts]).astype(param_dtype), plan.names, folder)
    told = [f"left out what {chosen} has not: {', '.join(parts)}"] if parts else []
    for note in [*plan.notes, *told]:
        warnings.warn(f"{folder}: {note}", stacklevel=2)
    module.eval()
    return module


def _opened(path: Path) -> tuple[Mapping[str, Any], LazyTensors]:
    """The `config.json` and the tensors of a checkpoint's folder, or what a GGUF file has in their place."""
    if is_gguf(path):
        file = GgufFile(path)
        return file.config, file.tensors
    return read_config(path), open_tensors(path)


def from_config(
    config: Mapping[str, Any],
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = np.float32,
    architecture: str | None = None,
    ignore: Collection[str] = (),
    **overrides: Any,
) -> Any:
    """The model of a `config.json`, with weights drawn anew: what `from_pretrained` would load weights into.

    Args:
        config: the content of a `config.json`, with its `model_type`.
        rngs: source of the initial weights and of dropout.
        dtype, param_dtype, architecture, ignore, overrides: as in `from_pretrained`.

    Raises:
        ValueError: as in `from_pretrained`.
    """
    family = family_of(config)
    chosen = family.architecture(config, architecture)
    given = BuildOptions(dtype, param_dtype, ignore, overrides)
    return build(family, chosen, config, rngs, given)


@dataclass(frozen=True)
class BuildOptions:
    """What the user says of a model beside its `config.json`; see `from_pretrained`."""

    dtype: DTypeLike | None
    param_dtype: DTypeLike
    ignore: Collection[str]
    overrides: Mapping[str, Any]
    found: Mapping[str, Any] = field(default_factory=dict)  # what the keys of a file say: see `Plan.settings`


def build(
    family: Family, architecture: str, config: Mapping[str, Any], rngs: nnx.Rngs, options: BuildOptions
) -> nnx.Module:
    """The model of a `config.json`, which it carries from then on."""
    part = part_of(family, architecture, config, options)
    module = part.build("jax_attn", rngs=rngs, dtype=options.dtype, param_dtype=options.param_dtype)
    module.config = NotedConfig({**config, "architectures": [architecture]})
    return module


def part_of(family: Family, architecture: str, config: Mapping[str, Any], options: BuildOptions) -> Part:
    """The model of a `config.json` as a part, from which its torch twin is built too."""
    overrides = dict(options.overrides)
    building = {name: overrides.pop(name, default) for name, default in BUILDING.items()}
    settings = model_arguments({**config, **overrides}, family.rules_for(architecture), options.ignore)
    return family.part(
        architecture, {**building, **dict.fromkeys(family.optional, True), **settings, **options.found}
    )


def save_pretrained(
    module: nnx.Module, folder: str | PathLike[str], *, config: Mapping[str, Any] | None = None
) -> Path:
    """Write `config.json` and `model.safetensors`, in Hugging Face's names, and return the folder.

    `from_pretrained` gives the same module back, bit for bit; a `Bert` is read by transformers' `BertModel`
    too. (A `Bert` with pre-norm or sinusoidal positions is no BERT to Hugging Face; it gets a `model_type` of
    its own, which transformers does not take.) Both files are written under temporary names first: an
    interrupted save leaves the checkpoint that was there.

    Args:
        module: a `Bert` or a `SequenceClassifier`.
        folder: is made if it does not exist. A checkpoint in it is replaced, other files are let alone.
        config: further attributes for `config.json`, such as `id2label` or `pad_token_id`.

    Raises:
        ValueError: the module is of another class, `config` contradicts the module or is not JSON, or the
            folder's `config.json` is not a checkpoint's.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    family, described = _described(module)
    architecture = described["architectures"][0]
    tensors = numpy_state_dict(module, names=family.keys(architecture))
    text = _config_text(described, config or {}, _common_dtype(tensors))
    _refuse_to_replace(folder)

    folder.mkdir(parents=True, exist_ok=True)
    write_together(
        {
            folder / SAFETENSORS: lambda path: write_safetensors(path, tensors),
            folder / CONFIG: lambda path: path.write_text(text, encoding="utf-8"),
        }
    )
    return folder


def _described(module: nnx.Module) -> tuple[Family, dict[str, Any]]:
    """The family of a module, and its `config.json`: read off the module, or that which it was built from."""
    for family in FAMILIES:
        described = None if family.describe is None else family.describe(module)
        if described is not None:
            return family, described
    noted = getattr(module, "config", None)
    if isinstance(noted, NotedConfig):
        return family_of(noted), dict(noted)
    raise ValueError(
        "save_pretrained takes what from_pretrained or from_config built, a Bert or a SequenceClassifier, got "
        f"{type(module).__name__}; state_dict takes any module"
    )


def without_weights(build: Callable[[], nnx.Module]) -> nnx.Module:
    """The module that `build` makes, its parameters abstract and everything else real.

    Buffers and random state come out of a compiled program, from which XLA has removed the drawing of the
    weights, since nothing asks for them.
    """
    module = nnx.eval_shape(build)
    rest = nnx.Not(nnx.Param)
    nnx.update(module, jax.jit(lambda: nnx.state(build(), rest))())
    return module


def _load(module: nnx.Module, tensors: LazyTensors, names: Names, folder: Path) -> None:
    # Constants that the module computes are in few files: they are compared where they are, never missed.
    table = [
        slot
        for slot in slots(module, names)
        if not isinstance(slot.variable, Buffer) or any(place.key in tensors for place in slot.places)
    ]
    errors = find_errors(table, tensors)
    if errors:
        raise misfit(f"the weights in {folder} do not fit its {CONFIG}", module, names, tensors, errors)
    assign(table, tensors)


def _common_dtype(tensors: Mapping[str, np.ndarray]) -> np.dtype[Any]:
    """The floating dtype of the tensors, or one that holds them all."""
    dtypes = {tensor.dtype for tensor in tensors.values() if is_floating(tensor.dtype)}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.float64 in dtypes else np.float32)


def _available(dtype: np.dtype[Any], folder: Path) -> np.dtype[Any]:
    if not is_floating(dtype):
        raise ValueError(f"param_dtype must be a floating dtype, got {dtype}")
    if dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{folder} is to be loaded in float64, which JAX has only after "
            'jax.config.update("jax_enable_x64", True); param_dtype="float32" casts'
        )
    return dtype


def _config_text(described: dict[str, Any], further: Mapping[str, Any], dtype: np.dtype[Any]) -> str:
    own = {**described, "dtype": dtype.name}
    for name, value in further.items():
        if name in own and name != "id2label" and own[name] != value:
            raise ValueError(f"config: {name}={value!r} contradicts the module, which has {own[name]!r}")
    labels = further.get("id2label")
    if labels is not None and len(labels) != described.get("num_labels", len(labels)):
        raise ValueError(f"config: id2label has {len(labels)} labels, the module {described['num_labels']}")
    try:
        return json.dumps({**own, **further}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from None


def _refuse_to_replace(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and a checkpoint is a folder")
    path = folder / CONFIG
    if path.exists() and "model_type" not in read_json(path):
        raise ValueError(f"{path} has no model_type, so it is not a checkpoint's, and is not replaced")
