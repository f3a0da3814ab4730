from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.blockwise import attention, serial_tiles
from jax_attn.functional.blockwise import plan as plan_module
from jax_attn.functional.blockwise.plan import (
    FULL,
    grid_of_band,
    grid_of_block_mask,
    make_pattern,
    make_plan,
    parallel_plan,
    pattern_of_band,
    serial_plan,
)
from jax_attn.functional.flex import flex_attention
from jax_attn.functional.mask_mods import causal, sliding_window
from jax_attn.parity import tolerances
from parity_tests.functional.attention_contract import AnotherForm, AttentionContract, set_to

MEGABYTE = 2**20


class TestSerial(AttentionContract):
    implementation = "blockwise"


@pytest.fixture(scope="class")
def _side_by_side():
    with set_to({attention: {"_on_one_device": lambda ctx: False}}):
        yield


@pytest.fixture(scope="class")
def _small_tiles():
    """Tiles of some queries and keys, of which the quarters that see nothing are left out."""
    sizes = {"MOST_ROWS": 16, "LONGEST": 32, "STEP": 2, "HALF_A_PIECE": 0, "ALIGNED": 4}
    with set_to({plan_module: sizes, serial_tiles: {"MOST_ROWS": 16, "FEWEST_QUERIES": 8}}):
        yield


@pytest.mark.usefixtures("_small_tiles")
class TestSmallTiles(AnotherForm):
    """What long texts get."""

    implementation = "blockwise"

    def test_parts_of_a_tile_are_left_out(self):
        visits = serial_plan(pattern_of_band((37, 41), (8, 8), (None, 0)), (37, 41), 1).visits
        assert len({visit.queries for visit in visits}) > 1


@pytest.mark.usefixtures("_side_by_side")
class TestParallel(AnotherForm):
    """What several devices get, or a chip."""

    implementation = "blockwise"


def temporaries(f, *shapes) -> float:
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(f).lower(*given).compile().memory_analysis().temp_size_in_bytes / MEGABYTE


def loss(implementation: str, q, k, v):
    return dot_product_attention(q, k, v, is_causal=True, implementation=implementation).sum()


def test_memory_of_forward_and_backward_is_small_and_linear():
    def peak(tokens: int) -> float:
        return temporaries(jax.grad(partial(loss, "blockwise"), argnums=(0, 1, 2)), *[(1, tokens, 8, 64)] * 3)

    half, whole = peak(4096), peak(8192)
    assert half <= 48
    assert whole <= 2.2 * half


@pytest.mark.parametrize("tokens", [2**13, pytest.param(2**15, marks=pytest.mark.slow)])
def test_no_dense_matrix(tokens):
    """Nor one of booleans: of 8,192 tokens those alone are 64 MB."""

    def loss(q):
        return flex_attention(q, q, q, block_mask=block_mask, implementation="blockwise").sum()

    block_mask = create_block_mask(sliding_window(256), None, None, tokens, tokens)
    assert block_mask.sparsity() > 100 * (1 - 2**9 / tokens)
    assert temporaries(jax.grad(loss), (1, tokens, 1, 16)) < tokens / 2**9


@pytest.mark.parametrize("size", [(128, 128), (256, 512), (384, 128)])
def test_plan_looks_at_the_blocks_of_the_band_alone(size: tuple[int, int]):
    tokens = 1000
    grid = grid_of_band(tokens, tokens, (128, 128), 99, 0)
    plan = make_plan(make_pattern(grid, (128, 128)), size, (tokens, tokens), groups=1)
    q_idx, kv_idx = np.arange(tokens)[:, None], np.arange(tokens)
    allowed = np.pad((kv_idx <= q_idx) & (kv_idx >= q_idx - 99), [(0, -tokens % n) for n in size])
    counts = allowed.reshape(-(-tokens // size[0]), size[0], -1, size[1]).sum((1, 3))
    for row, row_counts in enumerate(counts):
        full = plan.full.idx[0, 0, row, : plan.full.num[0, 0, row]]
        partial_ = plan.partial.idx[0, 0, row, : plan.partial.num[0, 0, row]]
        assert (row_counts[full] == size[0] * size[1]).all()
        looked_at = {*full.tolist(), *partial_.tolist()}
        assert set(np.flatnonzero(row_counts)) <= looked_at
        assert len(looked_at) <= (size[0] + 128 + 99) // min(size[1], 128) + 2


def test_band_and_block_mask_give_the_same_grid():
    block_mask = create_block_mask(causal, None, None, 512, 512)
    assert np.array_equal(grid_of_block_mask(block_mask), grid_of_band(512, 512, (128, 128), None, 0))
    assert grid_of_band(512, 512, (128, 128), None, None).min() == FULL


def test_a_window_takes_a_fraction_of_the_blocks():
    def steps(grid: np.ndarray) -> list[int]:
        pattern, lengths = make_pattern(grid, (128, 128)), (8192, 8192)
        plan = parallel_plan(pattern, lengths, groups=1)
        blocks = plan.full.num.sum() + plan.partial.num.sum()
        return [blocks * plan.q_size * plan.kv_size, serial_plan(pattern, lengths, groups=1).scores]

    whole = steps(grid_of_band(8192, 8192, (128, 128), None, 0))
    window = steps(grid_of_band(8192, 8192, (128, 128), 255, 0))
    assert all(all_of_it >= 8 * part for all_of_it, part in zip(whole, window, strict=True))


def test_captured_arrays_change_without_compiling_again():
    traces = []

    @jax.jit
    def attend(q, slope):
        traces.append(1)
        return flex_attention(q, q, q, lambda s, b, h, i, j: s - slope * (i - j), implementation="blockwise")

    q = jnp.ones((1, 5, 1, 2))
    assert not jnp.array_equal(attend(q, jnp.float32(0)), attend(q * jnp.arange(2), jnp.float32(1)))
    assert len(traces) == 1


def scaled_gradient(factor: float):
    """The identity, with a gradient that is not its own."""

    @jax.custom_jvp
    def f(x):
        return x

    f.defjvp(lambda primals, tangents: (primals[0], factor * tangents[0]))
    return f


@pytest.mark.slow
def test_what_was_compiled_for_one_mod_is_not_used_for_another():
    """What a jaxpr's text leaves out: arrays within a nested jit, and the rules of custom derivatives."""
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 7, 1, 3)), jnp.float32)

    def attend(q, score_mod, implementation):
        return jax.jit(lambda q: flex_attention(q, q, q, score_mod, implementation=implementation))(q)

    def nested(table):
        look = jax.jit(lambda i: table[i])
        return lambda s, b, h, i, j: s + look(j)

    for table in (jnp.zeros(7), jnp.arange(7.0)):
        ours, truth = (attend(q, nested(table), name) for name in ("blockwise", "reference"))
        np.testing.assert_allclose(ours, truth, atol=tolerances.SAME_FLOAT32)
    for factor in (1.0, 3.0):
        f = scaled_gradient(factor)
        ours, truth = (
            jax.grad(lambda q, f=f, name=name: attend(q, lambda s, b, h, i, j: f(s), name)[..., 0].sum())(q)
            for name in ("blockwise", "reference")
        )
        np.testing.assert_allclose(ours, truth, atol=tolerances.SAME_FLOAT32)
