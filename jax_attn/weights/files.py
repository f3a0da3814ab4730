"""Tensors in files, safetensors or torch's own format, whole or in shards: read one tensor at a time."""

import json
import mmap
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jax_attn.weights.tensors import as_numpy, is_torch_tensor

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
INDEX = ".index.json"  # beside either name: which shard holds which tensor

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

Reader = Callable[[], Any]  # gives an array, or what NumPy takes for one


class LazyTensors(Mapping[str, np.ndarray]):
    """Tensors by key; each is read when it is asked for, and then belongs to whoever asked."""

    def __init__(self, readers: Mapping[str, Reader]):
        self._readers = dict(readers)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._readers[key]()

    def __contains__(self, key: object) -> bool:
        return key in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def without(self, keys: Iterable[str]) -> "LazyTensors":
        """The tensors of all other keys."""
        left_out = set(keys)
        return LazyTensors({key: read for key, read in self._readers.items() if key not in left_out})


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is a float, of NumPy's or of 8 bits or bfloat16."""
    return np.issubdtype(dtype, np.floating) or dtype.isbuiltin == 2


def common_dtype(tensors: Mapping[str, np.ndarray]) -> np.dtype[Any]:
    """The floating dtype of the tensors, or one that holds them all."""
    dtypes = {tensor.dtype for tensor in tensors.values() if is_floating(tensor.dtype)}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.float64 in dtypes else np.float32)


# What the keys of quantized weights end in, as GPTQ, AWQ, compressed-tensors, bitsandbytes and FP8 have them.
QUANTIZED = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".SCB", ".quant_map",
    ".absmax",
)  # fmt: skip


def require_unquantized(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if there are weights that are not the numbers to compute with."""
    for key in tensors:
        if key.endswith(QUANTIZED):
            raise ValueError(f"the weights are quantized, which is not supported: they hold {key}")
    for key, tensor in tensors.items():
        if tensor.dtype.name.startswith("float8"):
            raise ValueError(f"the weights are quantized, which is not supported: {key} is {tensor.dtype}")


def shards_of(tensors: Mapping[str, np.ndarray], most: int) -> dict[str, list[str]]:
    """The keys of the tensors of each file, none of which holds more than `most` bytes, but for a single tensor."""
    groups: list[list[str]] = [[]]
    size = 0
    for key, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += tensor.nbytes
    if len(groups) == 1:
        return {SAFETENSORS: groups[0]}
    stem, ending = SAFETENSORS.split(".")
    return {
        f"{stem}-{number:05d}-of-{len(groups):05d}.{ending}": keys for number, keys in enumerate(groups, 1)
    }


def open_tensors(folder: Path) -> LazyTensors:
    """The tensors of the checkpoint in `folder`: safetensors if there are any, else torch's format.

    Raises:
        FileNotFoundError: there is neither, or a shard is missing.
        ValueError: a file is truncated or is not what its name says.
        ModuleNotFoundError: the weights are in torch's format, and torch is not installed.
    """
    for name, open_file in ((SAFETENSORS, open_safetensors), (TORCH, open_torch)):
        if (folder / name).is_file():
            return LazyTensors(open_file(folder / name))
        if (folder / (name + INDEX)).is_file():
            return LazyTensors(_open_shards(folder / (name + INDEX), open_file))
    raise FileNotFoundError(
        f"{folder} holds no weights: neither {SAFETENSORS} nor {TORCH}, whole or in shards"
    )


def open_safetensors(path: Path) -> dict[str, Reader]:
    """A reader for each tensor of a safetensors file, which is mapped into memory and not read."""
    from safetensors import SafetensorError, safe_open

    if _starts_with(path, b"version https://git-lfs"):
        raise ValueError(f"{path} is only a Git LFS pointer; `git lfs pull` fetches the weights")
    try:
        with safe_open(path, framework="numpy"):  # proves that the header is sound and fits the file's size
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is corrupt or truncated: {_first_line(error)}") from None
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    header.pop("__metadata__", None)

    def reader(key: str, dtype: str, shape: list[int], data_offsets: list[int]) -> Reader:
        if dtype not in DTYPES:
            raise ValueError(f"{path}: {key} has dtype {dtype}, which is not supported")
        if 0 in shape:
            return lambda: np.empty(shape, DTYPES[dtype])
        start = 8 + header_size + data_offsets[0]
        # Mapped anew each time, so that its pages count for this process as long as somebody holds it.
        return lambda: np.asarray(np.memmap(path, DTYPES[dtype], "r", start, tuple(shape)))

    return {key: reader(key, **entry) for key, entry in header.items()}


def forget_pages(array: np.ndarray) -> None:
    """Let go of what was read of the mapped file that the array is a view of; it is read again if asked for."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # which Windows has not
        base.madvise(mmap.MADV_DONTNEED)


def open_torch(path: Path) -> dict[str, Reader]:
    """A reader for each tensor of a file that `torch.save` wrote. Nothing but tensors is unpickled."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs torch: pip install torch") from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise ValueError(f"{path} is corrupt, or holds more than weights: {_first_line(error)}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and is_torch_tensor(tensor) for key, tensor in tensors.items()
    ):
        raise ValueError(f"{path} must hold a dictionary of tensors and nothing else")
    for key, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{path}: {key} is a tensor of torch's device meta, which has no values")

    def reader(tensor: Any) -> Reader:
        return lambda: as_numpy(tensor)

    return {key: reader(tensor) for key, tensor in tensors.items()}


def _open_shards(index: Path, open_file: Callable[[Path], dict[str, Reader]]) -> dict[str, Reader]:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files")
    shards = {}
    for name in sorted(set(shard_of.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names a shard outside its folder: {name}")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing, a shard named in {index.name}")
        shards[name] = open_file(index.parent / name)
    for key, name in shard_of.items():
        if key not in shards[name]:
            raise ValueError(f"{index.parent / name} does not hold {key}, as {index.name} says")
    return {key: shards[name][key] for key, name in shard_of.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or a ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, too
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def write_together(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write every file under a temporary name, and rename them only when all are complete."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, write in files.items():
            write(temporary[path])
        for path in files:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """The tensors as a safetensors file, as torch and transformers read it."""
    from safetensors.numpy import save_file

    # The library writes memory as it lies, so a transposed view must be laid out first.
    contiguous = {key: np.asarray(array, order="C") for key, array in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _starts_with(path: Path, prefix: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(prefix)) == prefix


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
