"""Whisper as CTranslate2 (faster-whisper) keeps it: a folder with a `model.bin`."""

import mmap
import struct
from collections.abc import Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jax_attn.weights.files import LazyTensors, read_json
from jax_attn.weights.rules import Names, rename

FILE, VERSION, SPEC = "model.bin", 6, "WhisperSpec"
DTYPES: dict[int, Any] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
    5: ml_dtypes.bfloat16,
}
GELU = 3
# What the decoder says of itself, with the one value that is Whisper's.
ORDINARY = {
    "pre_norm": 1,
    "activation": GELU,
    "alibi": 0,
    "scale_embeddings": 0,
    "start_from_zero_embedding": 0,
}
IGNORED = ("alignment_heads", "alignment_layer", "num_heads", *ORDINARY)

NAMES: Names = (
    (r"/", "."),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"\.position_encodings\.encodings$", ".embed_positions.weight"),
    (r"\.embeddings\.", ".embed_tokens."),
    (r"\.layer_(\d+)\.", r".layers.\1."),
    (r"\.self_attention\.layer_norm\.", ".self_attn_layer_norm."),
    (r"\.attention\.layer_norm\.", ".encoder_attn_layer_norm."),
    (r"\.ffn\.layer_norm\.", ".final_layer_norm."),
    (r"\.self_attention\.linear_0\.", ".self_attn.qkv_proj."),
    (r"\.self_attention\.linear_1\.", ".self_attn.out_proj."),
    (r"\.attention\.linear_0\.", ".encoder_attn.q_proj."),
    (r"\.attention\.linear_1\.", ".encoder_attn.kv_proj."),
    (r"\.attention\.linear_2\.", ".encoder_attn.out_proj."),
    (r"\.ffn\.linear_0\.", ".fc1."),
    (r"\.ffn\.linear_1\.", ".fc2."),
    (r"^", "model."),
    (r"^model\.decoder\.projection\.", "proj_out."),
)
# The tokens that config.json names, by what Whisper's vocabulary calls them.
TOKENS = {
    "bos_token_id": "<|endoftext|>",
    "eos_token_id": "<|endoftext|>",
    "pad_token_id": "<|endoftext|>",
    "decoder_start_token_id": "<|startoftranscript|>",
}


class Variable(NamedTuple):
    """Where a tensor lies in the file."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int


class CTranslate2Whisper:
    """A CTranslate2 folder as what a checkpoint folder holds: `config`, `tensors` in Hugging Face's names.

    The tensors are mapped into memory; those that CTranslate2 fuses, projections to queries, keys and values, are
    apart. There is no bias of keys.

    Args:
        folder: has `model.bin`, and beside it `config.json` and `tokenizer.json`, where they tell which tokens are
            never written, and which begin and end a text.

    Raises:
        FileNotFoundError: there is no `model.bin`.
        ValueError: it is corrupt, of another version or model, or its weights are quantised.
    """

    def __init__(self, folder: str | PathLike[str]):
        self.path = Path(folder) / FILE
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no {self.path}")
        with self.path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._variables, self._aliases = read_table(self._content)
        except (struct.error, UnicodeDecodeError, KeyError):
            raise ValueError(f"{self.path} is corrupt or truncated") from None
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self._check()
        readers = {key: read for name in self._weights() for key, read in self._readers(name)}
        self.tensors = LazyTensors(readers)
        self.config = self._config()

    def _weights(self) -> Iterator[str]:
        """The names of what a model learns, and of positions."""
        for name in self._variables:
            if name.rpartition("/")[2] not in IGNORED:
                yield name

    def _read(self, name: str) -> np.ndarray:
        shape, dtype, offset = self._variables[name]
        size = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._content, dtype, size, offset).reshape(shape)

    def _readers(self, name: str) -> Iterator[tuple[str, Any]]:
        """The keys of a variable, and what reads each."""
        key = rename(name, NAMES)
        for fused in ("qkv_proj", "kv_proj"):
            if f".{fused}." not in key:
                continue
            parts = fused.removesuffix("_proj")
            for index, part in enumerate(parts):
                if part == "k" and key.endswith(".bias"):
                    continue
                rows = partial(self._part, name, index, len(parts))
                yield key.replace(f".{fused}.", f".{part}_proj."), rows
            return
        yield key, partial(self._read, name)

    def _part(self, name: str, index: int, parts: int) -> np.ndarray:
        return np.split(self._read(name), parts)[index]

    def _check(self) -> None:
        """Raise ValueError where the model is another than ours."""
        for name, variable in self._variables.items():
            if variable.dtype in (np.int8, np.int16) and variable.shape:
                raise ValueError(f"{self.path}: {name} is quantised, which is not supported; float16 is")
        for name, value in ORDINARY.items():
            given = self._variables.get(f"decoder/{name}")
            if given is not None and self._read(f"decoder/{name}").item() != value:
                raise ValueError(f"{self.path}: decoder/{name} is not {value}, which alone is supported")

    def _config(self) -> dict[str, Any]:
        """The sizes, read off the shapes, in the words of a `config.json`."""
        shapes = {name: variable.shape for name, variable in self._variables.items()}
        width, bands, _ = shapes["encoder/conv1/weight"]
        last = "/ffn/linear_0/weight"
        counts = {
            side: sum(name.startswith(f"{side}/") and name.endswith(last) for name in shapes)
            for side in ("encoder", "decoder")
        }
        of_sides = {}
        for side, layers in counts.items():
            of_sides[f"{side}_layers"] = layers
            of_sides[f"{side}_attention_heads"] = self._read(f"{side}/num_heads").item()
            of_sides[f"{side}_ffn_dim"] = shapes[f"{side}/layer_0{last}"][0]
        return {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "vocab_size": shapes["decoder/embeddings/weight"][0],
            "num_mel_bins": bands,
            "d_model": width,
            **of_sides,
            "max_source_positions": shapes["encoder/position_encodings/encodings"][0],
            "max_target_positions": shapes["decoder/position_encodings/encodings"][0],
            "tie_word_embeddings": self._aliases.get("decoder/projection/weight")
            == "decoder/embeddings/weight",
            "pad_token_id": None,
            **self._tokens(),
        }

    def _tokens(self) -> dict[str, Any]:
        """Which tokens begin, end and never are in a text, where the folder says so."""
        found: dict[str, Any] = {}
        tokenizer, settings = (self.path.with_name(name) for name in ("tokenizer.json", "config.json"))
        if tokenizer.is_file():
            ids = {token["content"]: token["id"] for token in read_json(tokenizer).get("added_tokens", ())}
            found = {name: ids[token] for name, token in TOKENS.items() if token in ids}
        if settings.is_file():
            given = read_json(settings)
            names = {"suppress_tokens": "suppress_ids", "begin_suppress_tokens": "suppress_ids_begin"}
            found |= {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
        return found


def read_table(content: Any) -> tuple[dict[str, Variable], dict[str, str]]:
    """The variables of a `model.bin`, and the other names of some.

    Raises:
        ValueError: it is of another version or model, or ends early.
    """
    place = 0

    def number(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", content, place)
        place += struct.calcsize(f"<{form}")
        return value

    def string() -> str:
        nonlocal place
        size = number("H")
        place += size
        if place > len(content):
            raise ValueError("the file is corrupt or truncated")
        return bytes(content[place - size : place]).rstrip(b"\0").decode()

    version = number("I")
    if version != VERSION:
        raise ValueError(f"version {version} is not supported, only {VERSION} is")
    spec = string()
    if spec != SPEC:
        raise ValueError(f"{spec!r} is not supported, only {SPEC!r} is")
    number("I")  # the revision of the spec
    variables = {}
    for _ in range(number("I")):
        name = string()
        shape = tuple(number("I") for _ in range(number("B")))
        dtype = DTYPES[number("B")]
        size = number("I")
        variables[name] = Variable(shape, dtype, place)
        place += size
        if size != int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize or place > len(content):
            raise ValueError(f"the file is corrupt or truncated at {name}")
    aliases = {string(): string() for _ in range(number("I"))}
    return variables, aliases


def is_ctranslate2(path: Path) -> bool:
    """Whether the path is that of a CTranslate2 folder."""
    return (path / FILE).is_file()
