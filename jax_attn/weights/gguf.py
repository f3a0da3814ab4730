"""GGUF files, llama.cpp's: a whole checkpoint in one file, its weights often quantised."""

import math
from collections.abc import Callable
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_attn.weights.files import LazyTensors
from jax_attn.weights.gguf_header import TensorInfo, read_header
from jax_attn.weights.rules import Names, rename

SUFFIX = ".gguf"
METADATA = ("general.", "tokenizer.", "GGUF.", "quantize.", "split.")


class Architecture(NamedTuple):
    """How the files of one architecture differ from Hugging Face's.

    Attributes:
        model_type: that of the `config.json`.
        model: the class.
        interleaved: whether the rows of queries and keys lie as interleaved rotary positions want them.
    """

    model_type: str
    model: str
    interleaved: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", interleaved=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM"),
}
SETTINGS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "rope.freq_base": "rope_theta",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
WIDTHS = ("rope.dimension_count", "attention.key_length", "attention.value_length")  # each is that of a head
SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
}
NAMES: Names = (
    (r"^token_embd\.", "model.embed_tokens."),
    (r"^output_norm\.", "model.norm."),
    (r"^output\.", "lm_head."),
    (r"^blk\.", "model.layers."),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.attn_output\.", ".self_attn.o_proj."),
    (r"\.attn_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.attn_([qk])_norm\.", r".self_attn.\1_norm."),
    (r"\.ffn_(gate|up|down)\.", r".mlp.\1_proj."),
)
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
CONTROL = 3  # the type of a token that no text holds
# What splits a text before merges, by the name that llama.cpp has for it.
DIGITS_FIRST = ("smollm",)
BYTES_ONLY = ("gpt-2", "default")


class GgufFile:
    """A GGUF file as what a checkpoint folder holds: `config`, `tensors` in Hugging Face's names, `tokenizer()`.

    Its tensors are mapped into memory; each is dequantised when it is asked for, to float32 where it is quantised.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is corrupt, or of an architecture, or with a setting, that is not supported.
        ModuleNotFoundError: gguf is not installed; the `gguf` extra brings it.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        self._header = read_header(self.path)
        name = self._value("general.architecture")
        if name not in ARCHITECTURES:
            raise ValueError(
                f"{self.path}: architecture {name!r} is not supported, only {', '.join(ARCHITECTURES)}"
            )
        self._name, self._architecture = name, ARCHITECTURES[name]
        self.config = self._config()
        self.tensors = LazyTensors(
            {rename(name, NAMES): self._tensor_reader(name) for name in self._header.tensors}
        )

    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` of the file.

        Raises:
            ValueError: it is of a kind that is not supported.
            ModuleNotFoundError: tokenizers is not installed; the `cli` extra brings it.
        """
        try:
            from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        except ModuleNotFoundError:
            raise ModuleNotFoundError("reading text needs tokenizers: pip install tokenizers") from None
        kind, split = (self._value(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
        if kind != "gpt2" or split not in (*DIGITS_FIRST, *BYTES_ONLY, None):
            raise ValueError(f"{self.path}: a tokenizer {kind!r} with {split!r} before it is not supported")
        tokens = self._value("tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ")) for pair in self._value("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(
            models.BPE({token: index for index, token in enumerate(tokens)}, merges, fuse_unk=False)
        )
        by_byte: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if split in DIGITS_FIRST:
            by_byte = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_byte])
        tokenizer.pre_tokenizer = by_byte
        tokenizer.decoder = decoders.ByteLevel()
        kinds = zip(tokens, self._value("tokenizer.ggml.token_type") or (), strict=False)
        tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token, kind in kinds if kind == CONTROL]
        )
        return tokenizer

    def _value(self, name: str) -> Any:
        return self._header.values.get(name)

    def _config(self) -> dict[str, Any]:
        """The settings in the words of a `config.json`."""
        prefix = f"{self._name}."
        own = {
            name.removeprefix(prefix): value
            for name, value in self._header.values.items()
            if not name.startswith(METADATA)
        }
        config = {theirs: own.pop(name) for name, theirs in SETTINGS.items() if name in own}
        config = {name: _decimal(value) for name, value in config.items()}
        widths = {own.pop(name) for name in WIDTHS if name in own}
        if len(widths) > 1:
            raise ValueError(f"{self.path}: heads of several widths, {sorted(widths)}, are not supported")
        scaling = {theirs: own.pop(f"rope.scaling.{name}", None) for name, theirs in SCALING.items()}
        if scaling["rope_type"] not in (None, "none"):
            config["rope_scaling"] = {name: value for name, value in scaling.items() if value is not None}
        if own:
            name, value = next(iter(own.items()))
            raise ValueError(f"{self.path}: {name}={value!r} is not known here")
        names = self._header.tensors
        if "token_embd.weight" not in names:
            raise ValueError(f"{self.path} has no token_embd.weight: it holds no language model")
        ids = {"bos": "bos", "eos": "eos", "padding": "pad"}
        tokens = {
            f"{theirs}_token_id": self._value(f"tokenizer.ggml.{ours}_token_id")
            for ours, theirs in ids.items()
        }
        return {
            "model_type": self._architecture.model_type,
            "architectures": [self._architecture.model],
            "vocab_size": names["token_embd.weight"].shape[0],
            **config,
            **({"head_dim": widths.pop()} if widths else {}),
            **({"attention_bias": True} if self._name == "llama" and "blk.0.attn_q.bias" in names else {}),
            **{name: token for name, token in tokens.items() if token is not None},
            "tie_word_embeddings": "output.weight" not in names,
        }

    def _tensor_reader(self, name: str) -> Callable[[], Any]:
        heads = 0
        if self._architecture.interleaved and name.split(".")[-2] in ("attn_q", "attn_k"):
            heads = self.config["num_attention_heads"]
            heads = self.config.get("num_key_value_heads", heads) if "attn_k" in name else heads
        tensor = GgufTensor(self.path, self._header.tensors[name], heads)
        if tensor.stop > self.path.stat().st_size:
            raise ValueError(f"{self.path} is corrupt or truncated: it ends before {name} does")
        return lambda: tensor


class GgufTensor:
    """A tensor of a GGUF file, which NumPy takes for an array: it is read and dequantised then, and each time.

    Args:
        path: the file.
        info: where the tensor lies.
        heads: how many heads its rows are, where they lie as interleaved rotary positions want them; 0 is none.

    Raises:
        ValueError: it is of a type that is not known.
    """

    def __init__(self, path: Path, info: TensorInfo, heads: int):
        gguf = _gguf()
        self._path, self._info, self._heads = path, info, heads
        self._kind = gguf.GGMLQuantizationType(info.kind)
        values, size = gguf.GGML_QUANT_SIZES[self._kind]  # of a block
        self.stop = info.start + math.prod(info.shape) // values * size
        self.shape, self.ndim = info.shape, len(info.shape)
        self.dtype = np.dtype(PLAIN.get(self._kind.name, np.float32))
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        start = self._info.start
        data = np.memmap(self._path, np.uint8, "r", start, (self.stop - start,))
        if self._kind.name in PLAIN:
            array = data.view(self.dtype)
        else:
            array = _gguf().dequantize(data.reshape(*self.shape[:-1], -1), self._kind)
        array = array.reshape(self.shape)
        if self._heads:  # the two of a pair, half-split: as far apart as they can be
            pairs = array.reshape(self._heads, -1, 2, *self.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(self.shape)
        return np.array(array, dtype)


def _decimal(value: Any) -> Any:
    """A float32 as the number that was written: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _gguf() -> Any:
    try:
        return import_module("gguf")  # an extra that need not be installed
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a .gguf file needs gguf: pip install gguf") from None


def is_gguf(path: Path) -> bool:
    """Whether the path is that of a GGUF file."""
    return path.suffix == SUFFIX
