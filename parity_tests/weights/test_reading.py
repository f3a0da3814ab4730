"""Tensors are read in blocks, of whatever layout, and of their file no more is kept in memory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.weights import numpy_state_dict, reading
from jax_attn.weights.files import open_tensors, write_safetensors
from jax_attn.weights.rules import slots

MAKERS = {
    "linear": lambda rngs: nnx.Linear(11, 13, rngs=rngs),
    "convolution": lambda rngs: nnx.Conv(5, 7, (2, 3), rngs=rngs),
    "mirrored convolution": lambda rngs: nnx.ConvTranspose(5, 7, (2, 3), rngs=rngs),
    "general linear": lambda rngs: nnx.LinearGeneral((3, 5), (7, 11), axis=(-2, -1), rngs=rngs),
    "embedding": lambda rngs: nnx.Embed(13, 7, rngs=rngs),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", MAKERS)
def test_blocks_make_the_whole(tmp_path, monkeypatch, kind, dtype):
    whole = MAKERS[kind](nnx.Rngs(0))
    for leaf in jax.tree.leaves(nnx.state(whole), is_leaf=lambda node: isinstance(node, nnx.Variable)):
        leaf.set_value(jax.random.normal(jax.random.key(leaf.get_value().size), leaf.get_value().shape))
    write_safetensors(tmp_path / "model.safetensors", numpy_state_dict(whole))
    read = nnx.eval_shape(lambda: MAKERS[kind](nnx.Rngs(1)))
    for leaf in jax.tree.leaves(nnx.state(read), is_leaf=lambda node: isinstance(node, nnx.Variable)):
        leaf.set_value(jax.ShapeDtypeStruct(leaf.get_value().shape, dtype))
    monkeypatch.setattr(reading, "BLOCK", 9)
    assert reading.read_into(slots(read), open_tensors(tmp_path)) == []
    for (path, leaf), (_, expected) in zip(
        nnx.to_flat_state(nnx.state(read)), nnx.to_flat_state(nnx.state(whole)), strict=True
    ):
        assert leaf.get_value().dtype == dtype
        np.testing.assert_array_equal(leaf[...], expected[...].astype(dtype), err_msg=str(path))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the process's memory from /proc")
def test_no_page_of_the_file_waits_for_the_next_block(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    linear = nnx.Linear(1 << 9, 1 << 9, use_bias=False, rngs=nnx.Rngs(0))
    write_safetensors(path, numpy_state_dict(linear))
    before, after = [], []

    def resident() -> int:
        areas = Path("/proc/self/smaps").read_text().split(str(path))[1:]
        return sum(int(area.split("Rss:")[1].split()[0]) for area in areas)

    def watched(part):
        before.append(resident())
        forget(part)
        after.append(resident())

    forget = reading.forget_pages
    monkeypatch.setattr(reading, "BLOCK", 1 << 14)
    monkeypatch.setattr(reading, "forget_pages", watched)
    assert reading.read_into(slots(linear), open_tensors(tmp_path)) == []
    assert len(before) == 16
    assert min(before) > 0
    assert max(after) == 0
