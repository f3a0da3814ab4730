"""Exports, forward mode, what stands behind the padding, and dropout, whichever implementation serves."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, PartitionSpec

from jax_attn.functional import create_block_mask, dot_product_attention, flex_attention, mask_mods
from jax_attn.functional.dropout import make_dropout
from jax_attn.parity import tolerances
from parity_tests.contract import assert_close

IMPLEMENTATIONS = ["reference", "xla", "blockwise"]
HOWS = ("lengths", "mask", "bias", "flex")
FEW = [("reference", "mask"), ("xla", "lengths"), ("xla", "bias"), *product(["blockwise"], HOWS)]
KEY = jax.random.key(3)


def draw(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), dtype)


@pytest.mark.parametrize("symbols", [pytest.param("b, 640, 3, 5", marks=pytest.mark.slow), "b, t, 3, 5"])
def test_exports_with_symbolic_sizes_for_every_platform(symbols):
    """640 tokens of 3 heads: from a batch of one on too many scores for the whole matrix."""
    shape = export.symbolic_shape(symbols)
    given = jax.ShapeDtypeStruct(shape, jnp.float32)

    def attend(q):
        return dot_product_attention(q, q, q, is_causal=True)

    exported = export.export(jax.jit(attend), platforms=["cpu", "cuda", "tpu"])(given)
    q = draw(2, 640, 3, 5)
    np.testing.assert_allclose(exported.call(q), attend(q), atol=tolerances.SAME_FLOAT32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_forward_mode_is_the_transpose_of_reverse_mode(implementation):
    q, direction, cotangent = (draw(2, 11, 3, 5) + i for i in range(3))

    def attend(q):
        return dot_product_attention(q, q, q, is_causal=True, implementation=implementation)

    @jax.jit
    def both(q):
        return jax.jvp(attend, (q,), (direction,))[1], jax.vjp(attend, q)[1](cotangent)[0]

    forwards, backwards = both(q)
    assert float((forwards * cotangent).sum()) == pytest.approx(
        float((backwards * direction).sum()), rel=1e-4
    )


@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("implementation", "how"),
    [
        pytest.param(*given, marks=[pytest.mark.slow] * (given not in FEW))
        for given in product(IMPLEMENTATIONS, HOWS)
    ],
)
def test_nothing_behind_the_padding_is_seen(implementation, bad, how):
    q, k, v = draw(2, 13, 4, 5), draw(2, 17, 2, 5), draw(2, 17, 2, 7)
    lengths, of_queries = jnp.array([9, 9]), jnp.array([6, 6])
    mask = (jnp.arange(17) < 9)[None] & (jnp.arange(13) < 6)[:, None]
    block_mask = create_block_mask(lambda b, h, i, j: (i < 6) & (j < 9), None, None, 13, 17, BLOCK_SIZE=4)

    def attend(q, k, v):
        if how == "flex":
            return flex_attention(q, k, v, None, block_mask, enable_gqa=True, implementation=implementation)
        options = {"query_seq_lengths": of_queries, "key_value_seq_lengths": lengths}
        closed = {"mask": mask, "bias": jnp.where(mask, 0.0, -jnp.inf)}
        options = options if how == "lengths" else {how: closed[how]}
        return dot_product_attention(q, k, v, implementation=implementation, **options)

    @jax.jit
    def results(q, k, v):
        output, pull = jax.vjp(attend, q, k, v)
        return output, *pull(jnp.ones_like(output))

    clean = results(q, k, v)
    dirty = results(q.at[:, 6:].set(bad), k.at[:, 9:].set(bad), v.at[:, 9:].set(bad))
    for got, want in zip(dirty, clean, strict=True):
        np.testing.assert_allclose(got, want, atol=tolerances.SAME_FLOAT32)


def test_a_block_mask_may_be_scanned_over_layers():
    windows = [create_block_mask(mask_mods.causal, None, None, 300, 300) for _ in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *windows)
    q = draw(1, 300, 2, 4)

    def layer(x, block_mask):
        return flex_attention(x, x, x, None, block_mask, implementation="blockwise"), None

    ours, _ = jax.jit(lambda q: jax.lax.scan(layer, q, stacked))(q)
    one = jax.jit(lambda q: dot_product_attention(q, q, q, is_causal=True))
    assert_close([ours], [one(one(q))])


def test_without_jit():
    q = draw(1, 11, 2, 4)
    with jax.disable_jit():
        ours = dot_product_attention(q, q, q, implementation="blockwise")
    np.testing.assert_allclose(ours, dot_product_attention(q, q, q), atol=tolerances.SAME_FLOAT32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_strict_promotion_of_ranks_and_dtypes(implementation):
    q = draw(2, 11, 2, 4, dtype=jnp.bfloat16)
    options = {"is_causal": True, "key_value_seq_lengths": jnp.array([5, 11]), "sinks": jnp.ones(2)}
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        attend = lambda q: dot_product_attention(q, q, q, implementation=implementation, **options)  # noqa: E731
        gradient = jax.jit(jax.grad(lambda q: attend(q).astype(jnp.float32).sum()))
        assert gradient(q).shape == q.shape


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_infinity_is_made_on_the_way(implementation):
    """`jax_debug_infs` stops at the first, gradients included; closed entries are where one would be."""
    attend = lambda q: dot_product_attention(q, q, q, is_causal=True, implementation=implementation)  # noqa: E731
    with jax.enable_x64(True), jax.debug_infs(True):
        output, pull = jax.vjp(attend, draw(2, 11, 3, 5, dtype=np.float64))
        assert np.isfinite(pull(output)[0]).all()


class TestDropout:
    def test_is_the_same_in_every_implementation_with_all_gradients(self):
        q, k, v = draw(2, 150, 4, 5), draw(2, 130, 2, 5), draw(2, 130, 2, 7)

        def results(implementation):
            options = {"dropout_rate": 0.3, "dropout_key": KEY, "implementation": implementation}

            @jax.jit
            def run(*operands):
                output, pull = jax.vjp(lambda *x: dot_product_attention(*x, **options), *operands)
                return output, *pull(output)

            return run(q, k, v)

        truth = results("reference")
        for implementation in ("xla", "blockwise"):
            assert_close(results(implementation), truth)

    def test_keeps_the_right_share_and_every_axis_counts(self):
        sizes = (4, 5, 64, 256)
        place = [jnp.arange(n).reshape([-1 if i == j else 1 for j in range(4)]) for i, n in enumerate(sizes)]
        keeps = [np.asarray(make_dropout(0.3, jax.random.key(i)).keeps(*place)) for i in range(2)]
        for keep in keeps:
            assert abs(keep.mean() - 0.7) < 5 * np.sqrt(0.21 / keep.size)
        centred = [keep - 0.7 for keep in keeps]
        pairs = [(centred[0], centred[1])]
        pairs += [(x, np.roll(x, 1, axis)) for x in centred for axis in range(4)]
        for one, other in pairs:
            assert abs((one * other).mean()) < 5 * 0.21 / np.sqrt(one.size)


def test_a_head_of_no_width_is_refused():
    with pytest.raises(ValueError, match="width of a head"):
        dot_product_attention(*[jnp.ones((1, 3, 2, 0))] * 3)


def test_swapped_axes_are_warned_of():
    x = jnp.ones((1, 4, 300, 2))
    with pytest.warns(UserWarning, match="positions before heads"):
        dot_product_attention(x, x, x)


@pytest.mark.parametrize("tokens", [8, 256])
@jax.enable_x64(True)
def test_mods_may_index_what_varies_in_shard_map(tokens):
    """Packed documents, and a table of biases of each entry."""
    q, k, v, table = (draw(2, tokens, 2, width, dtype=np.float64) for width in (3, 4, 5, 6))
    k, ids = k[..., :3], jnp.arange(tokens)[None] // jnp.array([[3], [5]])

    def run(q, k, v, table, ids):
        mask = create_block_mask(mask_mods.document(ids), 2, None, tokens, tokens)

        def attend(q, k, v, table):
            def score_mod(score, b, h, q_idx, kv_idx):
                return score + jnp.tanh(table[b, q_idx, h, (q_idx - kv_idx) % 6])

            return flex_attention(q, k, v, score_mod, mask)

        output, pull = jax.vjp(attend, q, k, v, table)
        return output, pull(output)

    given, spec = (q, k, v, table, ids), PartitionSpec("data")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    for ours, theirs in zip(*(jax.tree.leaves(jax.jit(f)(*given)) for f in (mapped, run)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerances.MODULE)


def test_a_mod_with_a_derivative_of_its_own_is_refused_in_shard_map():
    def attend(q):
        return flex_attention(
            q, q, q, lambda score, b, h, q_idx, kv_idx: jax.nn.relu(score + q[b, q_idx, h, 0])
        )

    def run(q, **options):
        mesh, spec = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data")
        return jax.jit(jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec, **options))(q)

    q = draw(2, 8, 2, 3)
    with pytest.raises(ValueError, match="shard_map with check_vma=False"):
        run(q)
    np.testing.assert_allclose(run(q, check_vma=False), attend(q), atol=tolerances.SAME_FLOAT32)
