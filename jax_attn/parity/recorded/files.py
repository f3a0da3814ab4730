"""A run of torch in files, `trace.json` and `trace.safetensors`: to be compared where there is no torch."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.trees import Group, Leaf, Nothing, Skeleton
from jax_attn.parity.tracing.recording import CallRecord, Recording
from jax_attn.weights.files import DTYPES, open_safetensors, read_json, write_safetensors, write_together
from jax_attn.weights.tensors import as_numpy, is_torch_tensor

FORMAT = 1
JSON, TENSORS = "trace.json", "trace.safetensors"


@dataclass(frozen=True)
class Parameter:
    """What is asked of a parameter without its module."""

    requires_grad: bool


@dataclass(frozen=True)
class Draw:
    """One run in one lane: the outputs' structure, what torch gave, and what it gave in float64."""

    skeleton: Skeleton
    run: Run
    truth: Run


@dataclass
class RecordedModule:
    """What a comparison asks of the torch module itself.

    Attributes:
        weights: the `state_dict`.
        parameters: by key; one that is shared has several.
        buffers: their keys.
        modules: (first path, all paths, class) of every module that can be called.
        training: whether it came in training mode.
    """

    weights: Mapping[str, np.ndarray]
    parameters: dict[str, Parameter]
    buffers: list[str]
    modules: list[tuple[str, list[str], str]]
    training: bool

    def named_parameters(self, remove_duplicate: bool = True) -> Iterable[tuple[str, Parameter]]:
        """As torch has it; duplicates are always told."""
        return self.parameters.items()

    def named_buffers(self, remove_duplicate: bool = True) -> Iterable[tuple[str, None]]:
        """As torch has it, without the values."""
        return ((key, None) for key in self.buffers)

    def state_dict(self) -> Mapping[str, np.ndarray]:
        """The weights, in NumPy."""
        return self.weights


@dataclass
class TorchTrace:
    """Everything that was recorded of one call of a torch module.

    Attributes:
        module: the module.
        case: the call.
        seed: of the cotangents that gradients were taken with.
        draws: by lane; further ones have inputs moved by rounding errors.
        recordings: every submodule's calls, by lane, with their gradients.
    """

    module: RecordedModule
    case: Case
    seed: int
    draws: dict[str, list[Draw]]
    recordings: dict[str, Recording]

    def save(self, folder: Path) -> int:
        """Write it all, and return the size in bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _Arrays()
        module = {
            **vars(self.module),
            "weights": arrays.all(self.module.weights),
            "parameters": {key: p.requires_grad for key, p in self.module.parameters.items()},
        }
        content = {
            "format": FORMAT,
            "seed": self.seed,
            "args": _written(self.case.args, arrays),
            "kwargs": _written(dict(self.case.kwargs), arrays),
            "module": module,
            "draws": {lane: [_draw(draw, arrays) for draw in draws] for lane, draws in self.draws.items()},
            "recordings": {lane: _recording(found, arrays) for lane, found in self.recordings.items()},
        }
        text = json.dumps(content, indent=1) + "\n"
        write_together(
            {
                folder / JSON: lambda path: path.write_text(text, encoding="utf-8"),
                folder / TENSORS: lambda path: write_safetensors(path, arrays.by_key),
            }
        )
        return sum((folder / name).stat().st_size for name in (JSON, TENSORS))

    @classmethod
    def load(cls, folder: Path) -> "TorchTrace":
        """What `save` wrote.

        Raises:
            ValueError: the folder holds no trace, or one that is damaged or of another version.
        """
        for name in (JSON, TENSORS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no trace: there is no {name} (`jax-attn trace` writes it)")
        content = read_json(folder / JSON)
        if content.get("format") != FORMAT:
            raise ValueError(f"{folder / JSON} has format {content.get('format')}, expected {FORMAT}")
        arrays = {key: read() for key, read in open_safetensors(folder / TENSORS).items()}
        get = arrays.__getitem__
        try:
            module = content["module"]
            found = cls(
                RecordedModule(
                    {key: get(name) for key, name in module["weights"].items()},
                    {key: Parameter(trained) for key, trained in module["parameters"].items()},
                    module["buffers"],
                    [(first, paths, kind) for first, paths, kind in module["modules"]],
                    module["training"],
                ),
                Case("", _read(content["args"], get), _read(content["kwargs"], get)),
                content["seed"],
                {lane: [_read_draw(draw, get) for draw in draws] for lane, draws in content["draws"].items()},
                {lane: _read_recording(found, get) for lane, found in content["recordings"].items()},
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"{folder / JSON} does not fit {TENSORS}: {error!r}") from error
        if "float64" not in found.recordings or not all(found.draws.values()):
            raise ValueError(
                f"{folder / JSON} is no whole trace: it lacks a run, or what was called in float64"
            )
        return found

    @property
    def call(self) -> Call:
        """The call."""
        return Call.of(self.case)


class _Arrays:
    """The tensors to write; the same memory is written once, and so read as one array again."""

    def __init__(self) -> None:
        self.by_key: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}

    def one(self, value: Any) -> str:
        """The key of a tensor."""
        array = as_numpy(value)
        if array.dtype not in DTYPES.values():
            raise ValueError(f"a trace cannot hold a tensor of dtype {array.dtype}")
        lies = array.__array_interface__
        memory = lies["data"][0], array.shape, array.strides, str(array.dtype)
        if memory not in self._known:
            self._known[memory] = f"t{len(self.by_key)}"
            self.by_key[self._known[memory]] = array
        return self._known[memory]

    def all(self, values: Mapping[Any, Any]) -> dict[str, str]:
        """The keys of several."""
        return {str(name): self.one(value) for name, value in values.items()}


Get = Callable[[str], np.ndarray]


def _written(value: Any, arrays: _Arrays) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_torch_tensor(value) or hasattr(value, "shape"):
        return {"tensor": arrays.one(value)}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_written(each, arrays) for each in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _written(each, arrays) for key, each in value.items()}}
    raise ValueError(f"a trace cannot hold an input of type {type(value).__name__}")


def _read(value: Any, get: Get) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return get(content)
    if kind == "dict":
        return {key: _read(each, get) for key, each in content.items()}
    return {"tuple": tuple, "list": list}[kind](_read(each, get) for each in content)


def _draw(draw: Draw, arrays: _Arrays) -> dict[str, Any]:
    runs = {"run": draw.run, "truth": draw.truth}
    return {
        "skeleton": _shape(draw.skeleton),
        **{
            name: {
                "outputs": [arrays.one(array) for array in run.outputs],
                "gradients": arrays.all(run.gradients),
                "input_gradients": [arrays.one(array) for array in run.input_gradients],
            }
            for name, run in runs.items()
        },
    }


def _read_draw(content: dict[str, Any], get: Get) -> Draw:
    def run(name: str) -> Run:
        found = content[name]
        outputs, by_input = ([get(key) for key in found[kind]] for kind in ("outputs", "input_gradients"))
        return Run(outputs, {key: get(name) for key, name in found["gradients"].items()}, by_input)

    return Draw(_read_shape(content["skeleton"]), run("run"), run("truth"))


def _recording(recording: Recording, arrays: _Arrays) -> dict[str, Any]:
    return {
        "whole": _call(recording.whole, arrays),
        "calls": [_call(call, arrays) for call in recording.calls],
        "parameter_gradients": arrays.all(recording.parameter_gradients),
    }


def _read_recording(content: dict[str, Any], get: Get) -> Recording:
    recording = Recording("torch")
    recording.whole = _read_call(content["whole"], get)
    recording.calls = [_read_call(call, get) for call in content["calls"]]
    recording.parameter_gradients = {key: get(name) for key, name in content["parameter_gradients"].items()}
    return recording


NAMED = ("inputs", "input_gradients", "output_gradients")
SETS = ("unwatched_inputs", "unwatched")


def _call(call: CallRecord, arrays: _Arrays) -> dict[str, Any]:
    return {
        **vars(call),
        "skeleton": None if call.skeleton is None else _shape(call.skeleton),
        "outputs": [arrays.one(array) for array in call.outputs],
        **{name: arrays.all(getattr(call, name)) for name in NAMED},
        **{name: sorted(getattr(call, name)) for name in SETS},
    }


def _read_call(content: dict[str, Any], get: Get) -> CallRecord:
    named = {name: {key: get(array) for key, array in content[name].items()} for name in NAMED}
    by_position = {int(position): array for position, array in named["output_gradients"].items()}
    fields: dict[str, Any] = {
        **content,
        **named,
        **{name: set(content[name]) for name in SETS},
        "parameters": tuple(content["parameters"]),
        "skeleton": None if content["skeleton"] is None else _read_shape(content["skeleton"]),
        "outputs": [get(key) for key in content["outputs"]],
        "output_gradients": by_position,
    }
    return CallRecord(**fields)


def _shape(skeleton: Skeleton) -> Any:
    if isinstance(skeleton, Leaf):
        return {"shape": list(skeleton.shape), "kind": skeleton.kind}
    if isinstance(skeleton, Nothing):
        return None
    children = [_shape(child) for child in skeleton.children]
    return {"children": children, "names": skeleton.names, "ordered": skeleton.ordered}


def _read_shape(content: Any) -> Skeleton:
    if content is None:
        return Nothing()
    if "shape" in content:
        return Leaf(tuple(content["shape"]), content["kind"])
    names = None if content["names"] is None else tuple(content["names"])
    return Group(tuple(map(_read_shape, content["children"])), names, content["ordered"])
