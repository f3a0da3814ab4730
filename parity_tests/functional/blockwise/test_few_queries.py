from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.attention import BLOCK, dot_product_attention
from jax_attn.functional.blockwise import attention, few_queries
from jax_attn.functional.blockwise.plan import grid_of_band, make_pattern
from jax_attn.functional.terms import Terms
from parity_tests.functional.attention_contract import (
    AnotherForm,
    assert_equal,
    everything,
    set_to,
    slow_if,
)

S, SEEN = 53, 19


@pytest.fixture(scope="class")
def _any_number_of_queries():
    """The queries of the contract are more than this way of computing is picked for."""
    with set_to({attention: {"FEW_QUERIES": 1000}, few_queries: {"MOST_ROWS": 1000}}):
        yield


@pytest.mark.usefixtures("_any_number_of_queries")
class TestFewQueries(AnotherForm):
    implementation = "blockwise"


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def operands(batch: int = 2, kv_heads: int = 3, repeats: int = 2, width: int = 64) -> tuple[jax.Array, ...]:
    shapes = [(batch, 1, kv_heads * repeats, width), *[(batch, S, kv_heads, width)] * 2]
    return tuple(jnp.asarray(draw(*shape)) for shape in shapes)


def attend(*qkv: Any, **options: Any) -> jax.Array:
    return jax.jit(lambda *x: dot_product_attention(*x, implementation="blockwise", **options))(*qkv)


@pytest.mark.parametrize(
    ("batch", "kv_heads", "repeats"),
    [(2, 3, 2), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((3, 2, 1), (1, 1, 5)))],
)
def test_one_query_equals_the_oracle_however_the_work_is_dealt_out(
    batch: int, kv_heads: int, repeats: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    mask = draw(batch, kv_heads * repeats, 1, S) > 0
    with jax.enable_x64(True):
        qkv, call = operands(batch, kv_heads, repeats), {"mask": jnp.asarray(mask), "softcap": 1.3}
        assert_equal(everything("blockwise", *qkv, call), everything("reference", *qkv, call))


@pytest.mark.parametrize("position", [0, 8, *(slow_if(True, place) for place in (7, 40, S - 1))])
def test_traced_position(position: int):
    def at(implementation: str) -> Any:
        def run(position: jax.Array, *qkv: jax.Array) -> jax.Array:
            seen = (jnp.arange(S) <= position) & (jnp.arange(S) > position - SEEN)
            return dot_product_attention(*qkv, mask=seen[None, None, None], implementation=implementation)

        return jax.jit(run)(jnp.asarray(position), *operands())

    with jax.enable_x64(True):
        assert_equal({"output": at("blockwise")}, {"output": at("reference")})


@pytest.mark.parametrize("dtype", [slow_if(True, jnp.float32), jnp.bfloat16, slow_if(True, jnp.float16)])
def test_what_is_not_seen_may_hold_anything(dtype: Any):
    q, k, v = (x.astype(dtype) for x in operands())
    lengths = jnp.array([0, SEEN], jnp.int32)  # the first entry sees nothing at all
    behind = (np.arange(S) >= np.array([[0], [SEEN]]))[..., None, None]
    poisoned = (jnp.where(behind, jnp.nan, x) for x in (k, v))
    actual = attend(q.at[0].set(jnp.nan), *poisoned, key_value_seq_lengths=lengths)
    assert actual.dtype == dtype
    assert (actual[0] == 0).all()
    assert jnp.array_equal(actual, attend(q, k, v, key_value_seq_lengths=lengths))


@pytest.mark.parametrize(
    ("number", "heads"), [(0, [1]), pytest.param(1, [2, 3], marks=pytest.mark.slow), (2, [2, 3])]
)
def test_nan_stays_in_its_head_and_entry(number: int, heads: list[int]):
    qkv = list(operands())
    clean = attend(*qkv)
    qkv[number] = qkv[number].at[1, -1, 1, 3].set(jnp.nan)
    output = np.array(attend(*qkv))
    np.testing.assert_allclose(output, dot_product_attention(*qkv, implementation="reference"), atol=1e-6)
    assert not np.array_equal(output[1, 0, heads], clean[1, 0, heads])
    output[1, 0, heads] = clean[1, 0, heads]
    assert np.array_equal(output, clean)


def test_stretches_that_nobody_sees_are_not_read(monkeypatch: pytest.MonkeyPatch):
    over_blocks, counts = few_queries._over_blocks, []

    def counting(step: Any, init: Any, *others: Any) -> Any:
        def counted(block: jax.Array, carry: Any) -> Any:
            return step(block, carry[0]), carry[1] + 1

        result, count = over_blocks(counted, (init, jnp.int32(0)), *others)
        counts.append(count)
        return result

    monkeypatch.setattr(few_queries, "_over_blocks", counting)
    monkeypatch.setattr(few_queries, "PRODUCTS", 1)  # scores in blocks of 8 too
    monkeypatch.setattr(few_queries, "STRETCH", 16 * 2 * 3 * 64)  # 16 keys
    pattern = make_pattern(grid_of_band(1, S, BLOCK, None, None), BLOCK)

    @jax.jit
    def trips(first: int, last: int) -> list[jax.Array]:
        counts.clear()
        mask = (jnp.arange(S) >= first) & (jnp.arange(S) < last)
        few_queries.forward(*operands(), Terms(mask=mask[None, None, None]), pattern, 1.0)
        return counts

    for (first, last), expected in {
        (0, 0): 0,
        (0, 1): 2,
        (15, 17): 4,
        (16, 17): 2,
        (48, S): 1,
        (0, S): 7,
    }.items():
        assert {int(count) for count in trips(first, last)} == {expected}


def test_mask_of_queries_alone():
    qkv = operands()
    output = attend(*qkv, query_seq_lengths=jnp.array([0, 1], jnp.int32))
    assert (output[0] == 0).all()
    assert jnp.array_equal(output[1], attend(*qkv)[1])


def test_vmap_over_caches_of_different_lengths():
    q, k, v = operands()
    lengths = jnp.array([[5, 11], [S, 0]], jnp.int32)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array) -> jax.Array:
        return dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="blockwise")

    mapped = jax.jit(jax.vmap(one, in_axes=(None, None, None, 0)))(q, k, v, lengths)
    assert_equal({"output": mapped}, {"output": jnp.stack([one(q, k, v, n) for n in lengths])}, bound=1e-6)
