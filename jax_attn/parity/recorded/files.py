"""A run of torch in files, `trace.json` and `trace.safetensors`: to be compared where there is no torch."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.recorded.codec import Encoder, decode
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.trees import Group, Leaf, Nothing, Skeleton
from jax_attn.parity.tracing.recording import CallRecord, Recording
from jax_attn.weights.files import open_safetensors, read_json, write_safetensors, write_together

FORMAT = 3
JSON, TENSORS = "trace.json", "trace.safetensors"


@dataclass(frozen=True)
class Parameter:
    """What is asked of a parameter without its module."""

    requires_grad: bool


@dataclass(frozen=True)
class RecordedDraw:
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
        """As torch has it; duplicates are always listed."""
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
        attention: by path, the weights `(B, N, T, S)` of each call of an attention, where it has any.
    """

    module: RecordedModule
    case: Case
    seed: int
    draws: dict[str, list[RecordedDraw]]
    recordings: dict[str, Recording]
    attention: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def save(self, folder: Path) -> int:
        """Write it all, and return the size in bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        encoder = Encoder(CLASSES)
        content = {
            "format": FORMAT,
            "seed": self.seed,
            "case": encoder.encode(self.case),
            "module": encoder.encode(self.module),
            "draws": {lane: list(map(encoder.encode, draws)) for lane, draws in self.draws.items()},
            "recordings": {
                lane: {name: encoder.encode(getattr(found, name)) for name in RECORDED}
                for lane, found in self.recordings.items()
            },
            "attention": encoder.encode(self.attention),
        }
        text = json.dumps(content) + "\n"
        write_together(
            {
                folder / JSON: lambda path: path.write_text(text, encoding="utf-8"),
                folder / TENSORS: lambda path: write_safetensors(path, encoder.tensors),
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
        try:
            read = partial(decode, classes=CLASSES, tensors=arrays)
            found = cls(
                read(content["module"]),
                read(content["case"]),
                content["seed"],
                {lane: list(map(read, draws)) for lane, draws in content["draws"].items()},
                {lane: _recording(each, read) for lane, each in content["recordings"].items()},
                read(content.get("attention", {"dict": []})),
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"{folder / JSON} does not fit {TENSORS}: {error!r}") from error
        if "float64" not in found.recordings or not all(found.draws.values()):
            raise ValueError(
                f"{folder / JSON} is no whole trace: it lacks a run, or what was called in float64"
            )
        return found


CLASSES = {
    kind.__name__: kind
    for kind in (CallRecord, Case, RecordedDraw, Group, Leaf, Nothing, Parameter, RecordedModule, Run)
}
RECORDED = ("whole", "calls", "parameter_gradients")


def _recording(content: Mapping[str, Any], read: Callable[[Any], Any]) -> Recording:
    recording = Recording("torch")
    for name in RECORDED:
        setattr(recording, name, read(content[name]))
    return recording
