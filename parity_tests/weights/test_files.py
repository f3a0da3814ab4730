"""Tensors in files: what is written is read, lazily; what is broken is named in one line."""

import json
import os
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from jax_attn.weights.files import (
    forget_pages,
    open_safetensors,
    open_tensors,
    open_torch,
    write_safetensors,
    write_together,
)
from parity_tests.weights.test_tensors import DTYPES, random_bits

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float16)}


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_same(tensors, expected) -> None:
    assert set(tensors) == set(expected)
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype
        np.testing.assert_array_equal(tensors[key], value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_keep_every_bit(tmp_path, dtype):
    arrays = {
        "x": random_bits(dtype, (3, 5)),
        "t": random_bits(dtype, (3, 5)).T,
        "scalar": random_bits(dtype, ()),
    }
    arrays["empty"] = np.zeros((0, 2), dtype)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays)
    for key, read in open_safetensors(path).items():
        assert read().dtype == np.dtype(dtype)
        assert read().shape == arrays[key].shape
        assert read().tobytes() == arrays[key].tobytes()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the process's memory from /proc")
def test_pages_of_a_mapped_file_are_let_go(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"x": np.ones((1 << 10, 1 << 10), np.float32)})
    mapped = open_safetensors(path)["x"]()

    def resident() -> int:
        areas = Path("/proc/self/smaps").read_text().split(str(path))[1:]
        return sum(int(area.split("Rss:")[1].split()[0]) for area in areas)

    def read() -> None:
        assert mapped.sum() == mapped.size
        assert resident() >= mapped.nbytes >> 10

    read()
    forget_pages(mapped.T[:, 3:])  # any view of it
    assert resident() == 0
    read()
    own = np.ones(3)
    forget_pages(own)  # which has none
    assert own.sum() == 3


def test_torch_reads_what_we_write_and_we_what_torch_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"x": WEIGHTS["a.weight"].T, "y": np.ones(3, ml_dtypes.bfloat16)})
    read = safetensors.torch.load_file(path)
    np.testing.assert_array_equal(read["x"], WEIGHTS["a.weight"].T)
    assert read["y"].dtype == torch.bfloat16
    safetensors.torch.save_file({"odd": torch.tensor([1], dtype=torch.uint8), "x": torch.ones(3)}, path)
    assert_same(open_tensors(tmp_path), {"odd": np.array([1], np.uint8), "x": np.ones(3, np.float32)})


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, WEIGHTS)
    tensors = open_tensors(tmp_path)
    with path.open("r+b") as file:  # the last four values, changed in place
        file.seek(-8, os.SEEK_END)
        file.write(np.full(4, 9, np.float16).tobytes())
    changed = [key for key in WEIGHTS if not np.array_equal(tensors[key], WEIGHTS[key])]
    assert len(changed) == 1


def test_what_is_left_out_is_gone(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {**WEIGHTS, "ids": np.arange(3)})
    tensors = open_tensors(tmp_path).without(["b"])
    assert sorted(tensors) == ["a.weight", "ids"]
    assert "b" not in tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_own_format_old_and_new(tmp_path, zipped):
    tensors = {key: torch.from_numpy(value) for key, value in WEIGHTS.items()}
    tensors["tied"] = tensors["b"]
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same(open_tensors(tmp_path), {**WEIGHTS, "tied": WEIGHTS["b"]})


def test_safetensors_come_first(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    write_safetensors(tmp_path / "model.safetensors", WEIGHTS)
    assert_same(open_tensors(tmp_path), WEIGHTS)


def shards(folder, kind: str = "safetensors") -> dict:
    stem, suffix = ("model", ".safetensors") if kind == "safetensors" else ("pytorch_model", ".bin")
    weight_map = {}
    for number, (key, value) in enumerate(WEIGHTS.items(), start=1):
        weight_map[key] = f"{stem}-0000{number}-of-00002{suffix}"
        if kind == "safetensors":
            write_safetensors(folder / weight_map[key], {key: value})
        else:
            torch.save({key: torch.from_numpy(value)}, folder / weight_map[key])
    write_index(folder, weight_map, stem + suffix)
    return weight_map


def write_index(folder, weight_map, name="model.safetensors") -> None:
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_shards(tmp_path, kind):
    shards(tmp_path, kind)
    assert_same(open_tensors(tmp_path), WEIGHTS)


def test_bad_shards_are_refused(tmp_path):
    weight_map = shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"

    write_index(tmp_path, {**weight_map, "c": weight_map["b"]})
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors does not hold c, as model\."):
        open_tensors(tmp_path)
    write_index(tmp_path, {**weight_map, "b": "../elsewhere.safetensors"})
    with pytest.raises(ValueError, match=r"names a shard outside its folder: \.\./elsewhere\.safetensors"):
        open_tensors(tmp_path)
    for content in ("{}", '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        with pytest.raises(
            ValueError, match=f"{re.escape(str(index))} has no weight_map from tensors to files"
        ):
            open_tensors(tmp_path)
    index.write_text("{")
    with pytest.raises(ValueError, match=f"{re.escape(str(index))} is not JSON"):
        open_tensors(tmp_path)
    write_index(tmp_path, weight_map)
    (tmp_path / weight_map["a.weight"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"model-00001-of-00002\.safetensors is missing, a shard named in"
    ):
        open_tensors(tmp_path)


def test_a_folder_without_weights(tmp_path):
    expected = f"{tmp_path} holds no weights: neither model.safetensors nor pytorch_model.bin"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        open_tensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 20, -1, "junk"])
def test_truncated_and_corrupt_safetensors(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, WEIGHTS)
    path.write_bytes(b"this is no safetensors file" if keep == "junk" else path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is corrupt or truncated: ") as caught:
        open_tensors(tmp_path)
    one_line(caught)


def test_a_git_lfs_pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"model\.safetensors is only a Git LFS pointer; `git lfs pull`"):
        open_tensors(tmp_path)


def test_an_unsupported_dtype_is_named(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ValueError, match="x has dtype F8_E8M0, which is not supported"):
        open_safetensors(path)


class Evil:
    def __reduce__(self):
        return (os.system, ("exit 1",))


def test_bad_torch_files_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    name = re.escape(str(path))
    torch.save({key: torch.from_numpy(value) for key, value in WEIGHTS.items()}, path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is corrupt, or holds more than weights: ") as caught:
            open_torch(path)
        one_line(caught)
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match=f"{name} is corrupt, or holds more than weights: ") as caught:
        open_torch(path)
    one_line(caught)
    for content in ([torch.zeros(1)], {"state_dict": {"a": torch.zeros(1)}}, {3: torch.zeros(1)}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"{name} must hold a dictionary of tensors and nothing else"):
            open_torch(path)
    torch.save({"a": torch.zeros(1, device="meta")}, path)
    with pytest.raises(
        ValueError, match=f"{name}: a is a tensor of torch's device meta, which has no values"
    ):
        open_torch(path)


def test_torchs_format_without_torch(tmp_path, monkeypatch):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"reading .*pytorch_model\.bin needs torch: pip install"):
        open_tensors(tmp_path)


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_together({first: lambda path: path.write_text("new"), second: fail})
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert first.read_text() == "old"
    write_together({path: lambda path: path.write_text("new") for path in (first, second)})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first": "new", "second": "new"}
