"""Checkpoint folders as Hugging Face lays them out, `config.json` beside weights, into modules."""

import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jax_attn.functional.checks import require_integer
from jax_attn.models.part import Part
from jax_attn.nn.primitives import Buffer
from jax_attn.weights.config import (
    BUILDING,
    CONFIG,
    NEUTRAL,
    ORDINARY,
    NotedConfig,
    matches,
    model_arguments,
    patterns,
    read_config,
)
from jax_attn.weights.ctranslate2 import CTranslate2Whisper, is_ctranslate2
from jax_attn.weights.errors import NamesError, StateDictError
from jax_attn.weights.families import family_of
from jax_attn.weights.family import Family
from jax_attn.weights.files import LazyTensors, common_dtype, is_floating, open_tensors, require_unquantized
from jax_attn.weights.gguf import GgufFile, is_gguf
from jax_attn.weights.misfits import as_a_whole
from jax_attn.weights.plan import Plan, fitted, plan_for, require_as_many_layers, require_sizes_in
from jax_attn.weights.reading import Placement, placed, read_into, value_errors
from jax_attn.weights.rules import Names, require_names, slots
from jax_attn.weights.sketch import Sketch
from jax_attn.weights.state_dict import find_errors, misfit


def from_pretrained(
    folder: str | PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    seed: int = 0,
    architecture: str | None = None,
    sharding: Placement = None,
    names: Names = (),
    ignore: Collection[str] = (),
    **overrides: Any,
) -> Any:
    """The model of a checkpoint folder: `config.json` with `model.safetensors` or `pytorch_model.bin`.

    `model_type` and `architectures` in `config.json` say what it is; of a head that is not known here it is the
    model without it. The module is in eval mode, as Hugging Face's is: `module.train()` turns dropout on.

    >>> bert = from_pretrained("my-bert")  # doctest: +SKIP
    >>> tagger = from_pretrained("my-bert", architecture="ForTokenClassification", num_labels=9)  # doctest: +SKIP

    The weights may lie in shards, and a `pytorch_model.bin` needs torch. They are mapped into memory and
    copied tensor by tensor into a module that has no weights of its own, so there is never a second copy.

    A `UserWarning` says what of the checkpoint is left out (the head of another task), which weights it lacks and
    were drawn anew (the head of this task), that there is no pooler where the checkpoint has none, and which
    prefix was taken off its keys.

    Args:
        folder: the checkpoint's folder, a CTranslate2 folder of Whisper, or a GGUF file, whose weights are
            dequantised.
        dtype: dtype to compute in; None is that of the parameters.
        param_dtype: dtype of the parameters; None keeps the checkpoint's (float32, or float64, where it mixes
            several).
        seed: seed of the dropout streams, and of weights that are drawn anew.
        architecture: another class of the family, by the name that `architectures` would have, that of the family
            left out or not: "Model" is the model without a head, "ForMaskedLM" a masked LM. Weights of a head that
            the checkpoint does not have are drawn.
        sharding: where the parameters lie: a `jax.sharding.Sharding` for all of them, or a function that gives one
            (or None, the default device) for each from its path in the module and its shape, as
            `lambda path, shape: NamedSharding(mesh, P(*[None] * (len(shape) - 1), "model"))`. Of each tensor only
            the slices of the devices here are read, and each goes straight to its device.
        names: pairs (pattern, replacement) that turn Hugging Face's keys into those of the file, where it has
            others. A prefix that all of them carry (`module.`, `_orig_mod.`, `model.`, ...) is taken off without.
        ignore: shell-like patterns, for those who know better: attributes of `config.json` that change
            nothing in what the model computes, and tensors to leave out, without a warning.
        overrides: attributes of `config.json` with other values than there, and `scan` and `remat`, which change
            how the layers are compiled.

    Raises:
        FileNotFoundError: no such folder, or `config.json` or weights are missing.
        ValueError: a file is corrupt; `config.json` is of another model type, asks for something that
            changes the mathematics and is not supported, or has an attribute that is not known here; the
            weights are quantized; `dtype` is not floating; `sharding` does not fit a parameter.
        TypeError: an override is no attribute of `config.json` that is known here.
        StateDictError: a ValueError that tells every tensor that is missing, unexpected, of a wrong shape or
            not finite.
        ModuleNotFoundError: the weights are in torch's format and torch is not installed.
    """
    folder = Path(folder)
    ignore = patterns(ignore)
    require_integer("seed", seed)
    require_floating(dtype)
    where = folder if is_gguf(folder) else folder / CONFIG
    config, tensors = _opened(folder)
    family = family_of(config, where)
    with _telling(where):
        chosen = family.architecture(config, architecture)
    require_overrides(family, chosen, overrides)
    require_names(names)
    with _telling(where):
        arguments = settings_of(family, chosen, config, ignore, overrides)
    tensors = tensors.without([key for key in tensors if matches(key, ignore)])
    with _telling(folder):
        require_unquantized(tensors)
        plan = plan_for(family, chosen, list(tensors), names, arguments)
    param_dtype = _available(common_dtype(tensors) if param_dtype is None else np.dtype(param_dtype), folder)
    options = BuildOptions(dtype, param_dtype, ignore, {**overrides, **plan.settings})

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return build(family, chosen, config, rngs, options)

    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    with _telling(where):
        part = part_of(family, chosen, config, options)
        require_as_many_layers(part, tensors)
        require_sizes_in(part, shapes, arguments)
        sketch = Sketch(make, seed)
    module = sketch.module
    table = slots(module, plan.names)
    own = chosen in (config.get("architectures") or ())
    plan = fitted(plan, table, shapes, own=own, reshaped="num_labels" in overrides)
    if plan.drawn:
        sketch = Sketch(lambda rngs: drawn(make(rngs), family), seed)
    compute_rest(module, sketch, plan.drawn, sharding)
    module.config.unread.update((name, np.array(tensors[key])) for key, name in plan.unread.items())
    strange = [name for name in config.get("architectures") or () if not family.knows(name)]
    read_as = f", read as {chosen}: {strange[0]} is not known here" if strange and not own else ""
    _load(module, tensors, plan, f"the weights in {folder} do not fit its {CONFIG}{read_as}", sharding)
    for note in plan.notes:
        warnings.warn(f"{folder}: {note}", stacklevel=2)
    module.eval()
    return module


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
        dtype: as in `from_pretrained`.
        param_dtype: as in `from_pretrained`.
        architecture: as in `from_pretrained`.
        ignore: as in `from_pretrained`.
        overrides: as in `from_pretrained`.

    Raises:
        ValueError: as in `from_pretrained`.
    """
    family = family_of(config)
    chosen = family.architecture(config, architecture)
    require_overrides(family, chosen, overrides)
    require_floating(dtype)
    given = BuildOptions(dtype, param_dtype, patterns(ignore), overrides)
    return drawn(build(family, chosen, config, rngs, given), family)


def _opened(path: Path) -> tuple[Mapping[str, Any], LazyTensors]:
    """The `config.json` and the tensors of a checkpoint's folder, or what another format has in their place."""
    if is_gguf(path) or is_ctranslate2(path):
        file = GgufFile(path) if is_gguf(path) else CTranslate2Whisper(path)
        return file.config, file.tensors
    return read_config(path), open_tensors(path)


@dataclass(frozen=True)
class BuildOptions:
    """What the user says of a model beside its `config.json`; see `from_pretrained`."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = np.float32
    ignore: Collection[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)


def build(
    family: Family, architecture: str, config: Mapping[str, Any], rngs: nnx.Rngs, options: BuildOptions
) -> nnx.Module:
    """The model of a `config.json`, which it carries from then on."""
    part = part_of(family, architecture, config, options)
    module = part.build("jax_attn", rngs=rngs, dtype=options.dtype, param_dtype=options.param_dtype)
    module.config = noted_config(family, architecture, config, options)
    return module


def drawn(module: Any, family: Family) -> Any:
    """The module, with the initial weights of its family."""
    ignored = module.config.ignored
    family.draw(module, {name: value for name, value in module.config.items() if not matches(name, ignored)})
    return module


def part_of(family: Family, architecture: str, config: Mapping[str, Any], options: BuildOptions) -> Part:
    """The model of a `config.json` as a part, from which its torch twin is built too."""
    building = {name: options.overrides.get(name, default) for name, default in BUILDING.items()}
    settings = settings_of(family, architecture, config, options.ignore, options.overrides)
    return family.part(architecture, {**building, **settings})


def settings_of(
    family: Family,
    architecture: str,
    config: Mapping[str, Any],
    ignore: Collection[str],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of all attributes that the model is built from."""
    own = {name: value for name, value in overrides.items() if name not in BUILDING}
    for name, value in config.items():
        if isinstance(value, Mapping) and value.keys() & own.keys() and name not in {*NEUTRAL, *own}:
            nested = min(value.keys() & own.keys())
            raise ValueError(f"{nested} stands in {name}, which decides: override that in place of it")
    given = {**config, **own}
    if "num_labels" in overrides:
        given.pop("id2label", None)
    rules = family.rules_for(architecture).with_defaults(dict.fromkeys(family.optional, True))
    return model_arguments(given, rules, ignore)


def require_overrides(family: Family, architecture: str, overrides: Mapping[str, Any]) -> None:
    """Raise TypeError unless each override is an attribute that `config.json` may have, beside the class itself."""
    for name in ("model_type", "architectures"):
        if name in overrides:
            raise TypeError(f"{name} cannot be overridden: architecture= chooses another class of the family")
    rules = family.rules_for(architecture)
    of_config = {*rules.defaults, *rules.ordinary, *rules.neutral, *ORDINARY, *NEUTRAL}
    for name in overrides:
        if name not in (*of_config, *BUILDING):
            raise TypeError(
                f"{name} is neither an attribute of config.json that {architecture} is built from nor one of "
                f"{', '.join(BUILDING)}"
            )


def noted_config(
    family: Family, architecture: str, config: Mapping[str, Any], options: BuildOptions
) -> NotedConfig:
    """The `config.json` of a model that was built so."""
    head = family.heads.get(architecture)
    given = {name: value for name, value in options.overrides.items() if name not in BUILDING}
    found = {name: given.pop(name) for name in ({} if head is None else head.optional) if name in given}
    noted = {**config, **given, "architectures": [architecture]}
    if len(noted.get("id2label") or ()) != given.get("num_labels", len(noted.get("id2label") or ())):
        noted = {name: value for name, value in noted.items() if name not in ("id2label", "label2id")}
    return NotedConfig(noted, options.ignore, found)


@contextmanager
def _telling(where: Path) -> Generator[None]:
    """Say in an error in which file it is."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def compute_rest(module: nnx.Module, sketch: Sketch, paths: Collection[str], placement: Placement) -> None:
    """Give an abstract module all that its sketch has but the parameters, and those at `paths`."""

    def wanted(path: Sequence[Any], leaf: Any) -> bool:
        return not isinstance(leaf, nnx.Param) or ".".join(map(str, path)) in paths

    state = sketch.compute(wanted)
    for path, leaf in nnx.to_flat_state(state):
        if isinstance(leaf, nnx.Param):
            leaf.set_value(placed(leaf.get_value(), placement, ".".join(map(str, path))))
    # What does not fit into the memory is told here, and not at the first use of the module.
    nnx.update(module, jax.block_until_ready(state))


def _load(module: Any, tensors: LazyTensors, plan: Plan, message: str, placement: Placement) -> None:
    # Constants that the module computes are in few files: they are compared where they are, never missed.
    table = [
        slot
        for slot in slots(module, plan.names)
        if slot.path not in plan.drawn
        and (not isinstance(slot.variable, Buffer) or any(place.key in tensors for place in slot.places))
    ]
    expected = [place.key for slot in table for place in slot.places]
    given = tensors.without(plan.left_out)
    errors = find_errors(table, given, values=False)
    if errors:
        # What is wrong is told all at once.
        errors += [each for key in expected for each in value_errors(key, given.get(key), table[0].dtype)]
        error = misfit(message, module, plan.names, given, errors)
        if not isinstance(error, NamesError) and not any(key in given for key in expected):
            theirs, ours = next(iter(given), "none"), expected[0]
            raise ValueError(
                f"{message}: it holds no tensor of {plan.architecture}, which begins with {ours}, but {theirs}, ..."
            ) from None
        if isinstance(error, NamesError) or (summary := as_a_whole(table, given, module.config)) is None:
            raise error
        raise StateDictError(message, errors, summary=summary)
    errors = [
        f"tied: {key} differs from {other}, and {plan.architecture} has one tensor for both (tie_word_embeddings)"
        for key, other in plan.tied.items()
        if other in tensors and not np.array_equal(tensors[key], tensors[other])
    ]
    errors += read_into(table, given, placement)
    if errors:
        raise StateDictError(message, errors)


def require_floating(dtype: DTypeLike | None) -> None:
    """Raise ValueError unless one can compute in that dtype."""
    try:
        known = dtype is None or is_floating(jnp.dtype(dtype))
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"dtype must be a floating dtype, got {dtype!r}")


def _available(dtype: np.dtype[Any], folder: Path) -> np.dtype[Any]:
    if not is_floating(dtype):
        raise ValueError(f"param_dtype must be a floating dtype, got {dtype}")
    if dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{folder} is to be loaded in float64, which JAX has only after "
            'jax.config.update("jax_enable_x64", True); param_dtype="float32" casts'
        )
    return dtype
