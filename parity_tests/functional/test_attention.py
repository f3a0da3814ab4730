"""dot_product_attention as a drop-in for jax.nn's, its own options, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.dropout import keep_masks_from
from jax_attn.functional.reference import reference_attention
from jax_attn.parity import tolerances

B, T, S, N, K, H = 2, 13, 17, 6, 3, 5
KEY = jax.random.key(0)


def operands(dtype=jnp.float32):
    draw = np.random.default_rng(0).standard_normal
    return tuple(jnp.asarray(draw(shape), dtype) for shape in [(B, T, N, H), (B, S, K, H), (B, S, K, H)])


ARRAY = np.random.default_rng(1).standard_normal((B, N, T, S)).astype(np.float32)
LENGTHS = {
    "query_seq_lengths": jnp.array([5, T], jnp.int32),
    "key_value_seq_lengths": jnp.array([S, 9], jnp.int32),
}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"scale": 0.7}, marks=pytest.mark.slow),
        pytest.param({"bias": jnp.asarray(ARRAY)}, marks=pytest.mark.slow),
        pytest.param({"bias": jnp.asarray(ARRAY[0])}, marks=pytest.mark.slow),
        pytest.param({"mask": jnp.asarray(ARRAY[:, :1] > -1)}, marks=pytest.mark.slow),
        pytest.param({"mask": jnp.asarray(ARRAY[:1, :, :1] > -1)}, marks=pytest.mark.slow),
        pytest.param({"is_causal": True}, marks=pytest.mark.slow),
        pytest.param({"local_window_size": 3}, marks=pytest.mark.slow),
        {"local_window_size": (4, 1), "is_causal": True},
        LENGTHS,
        pytest.param({"return_residual": True, "is_causal": True}, marks=pytest.mark.slow),
    ],
)
def test_is_a_drop_in_for_jax_nn(call):
    def run(f, **more):
        def loss(q, k, v):
            out = f(q, k, v, **call, **more)
            return (out[0] if isinstance(out, tuple) else out).sum(), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*operands())

    @jax.jit
    def everything():
        ours = [run(dot_product_attention, implementation=name) for name in ("xla", "blockwise")]
        return ours, run(jax.nn.dot_product_attention)

    ours, theirs = everything()
    for results in ours:
        for actual, expected in zip(jax.tree.leaves(results), jax.tree.leaves(theirs), strict=True):
            assert actual.shape == expected.shape
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(actual, expected, atol=3e-6)


def test_without_a_batch_axis_as_jax_nn():
    q, k, v = (x[0] for x in operands())
    ours, theirs = (
        jax.jit(lambda q, k, v, f=f: f(q, k, v, return_residual=True))(q, k, v)
        for f in (dot_product_attention, jax.nn.dot_product_attention)
    )
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_oracle_is_the_formula():
    """One head, one query at a time, in NumPy."""
    q, k, v = (np.asarray(x, np.float64) for x in operands())
    with jax.enable_x64(True):
        result = jax.jit(lambda *x: reference_attention(*x, is_causal=True))(q, k, v)
        result = jax.tree.map(np.asarray, result)
    for b, t, n in np.ndindex(B, T, N):
        scores = k[b, : t + 1, n // 2] @ q[b, t, n] / np.sqrt(H)
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(result.output[b, t, n], weights @ v[b, : t + 1, n // 2], atol=1e-13)
        np.testing.assert_allclose(result.lse[b, t, n], np.log(np.exp(scores).sum()), atol=1e-13)
        np.testing.assert_allclose(result.weights[b, n, t, : t + 1], weights, atol=1e-13)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_dropout_keeps_what_it_is_given(implementation):
    q, k, v = operands()
    options = {"dropout_rate": 0.3, "dropout_key": KEY, "implementation": implementation}

    @jax.jit
    def both(q, k, v):
        with keep_masks_from(jax.random.bernoulli):
            dropping = dot_product_attention(q, k, v, return_weights=True, **options)
        return dropping, dot_product_attention(q, k, v, return_weights=True)[1]

    (output, dropped), weights = jax.tree.map(np.asarray, both(q, k, v))
    keep = np.asarray(jax.random.bernoulli(KEY, 0.7, weights.shape))
    np.testing.assert_allclose(dropped, np.where(keep, weights / 0.7, 0), atol=1e-6)
    expected = np.einsum("bnts,bsnh->btnh", dropped, np.repeat(v, 2, axis=2))
    np.testing.assert_allclose(output, expected, atol=tolerances.SAME_FLOAT32)


def test_weights_of_a_row_sum_to_one_and_a_sink_takes_its_share():
    q, k, v = operands()
    for implementation in ("reference", "xla"):
        options = {"return_weights": True, "implementation": implementation}

        @jax.jit
        def sums(q, k, v, sinks, options=options):
            both = (dot_product_attention(q, k, v, sinks=x, **options)[1] for x in (None, sinks))
            return [weights.sum(-1) for weights in both]

        whole, rest = map(np.asarray, sums(q, k, v, jnp.full(N, 3.0)))
        np.testing.assert_allclose(whole, 1, atol=1e-6)
        assert (rest < 0.95).all()


def test_float64_stays_float64():
    with jax.enable_x64(True):
        q, k, v = operands(jnp.float64)
        for implementation in ("xla", "blockwise"):
            attend = partial(dot_product_attention, implementation=implementation)
            assert jax.eval_shape(attend, q, k, v).dtype == jnp.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": jnp.ones((B, S, 4, H)), "value": jnp.ones((B, S, 4, H))}, "multiple of the key/value heads"),
        ({"key": jnp.ones((B, S, K, H + 1))}, "same head dim"),
        ({"value": jnp.ones((B, S + 1, K, H))}, "key and value must agree"),
        ({"key": jnp.ones((3, S, K, H)), "value": jnp.ones((3, S, K, H))}, "same batch"),
        ({"query": jnp.ones((T, N, H))}, "all be"),
        ({"key": jnp.ones((B, S, K, H), jnp.bfloat16)}, "one floating dtype"),
        ({"mask": jnp.ones((T, S))}, "mask must be boolean, got float32; an additive mask goes to bias"),
        ({"bias": jnp.ones((T, S), bool)}, "bias must be floating"),
        (
            {"mask": jnp.ones((T, S + 1), bool)},
            r"mask must broadcast against .*\(2, 6, 13, 17\), got \(13, 18\)",
        ),
        ({"bias": jnp.ones((K, T, S))}, "bias must broadcast"),
        ({"query_seq_lengths": jnp.ones(3, int)}, r"query_seq_lengths must be integers of shape \(2,\)"),
        ({"local_window_size": (1, 2, 3)}, "local_window_size"),
        ({"segment_ids": jnp.ones((B, T), int)}, r"segment_ids must be \(2, 13\)"),
        ({"sinks": jnp.ones(K)}, r"sinks must be floating of shape \(6,\)"),
        ({"dropout_rate": 0.1}, "needs dropout_key"),
        ({"dropout_rate": 1.5, "dropout_key": KEY}, "probability"),
        ({"softcap": 0.0}, "softcap must be above 0"),
        ({"softcap": float("nan")}, "softcap must be above 0"),
        ({"implementation": "fast"}, "not one of"),
        ({"implementation": "cudnn"}, "NVIDIA GPUs, not on cpu"),
        ({"implementation": "pallas"}, "TPU and GPU, not on cpu"),
        ({"implementation": "blockwise", "return_weights": True}, "never holds the weights"),
    ],
)
def test_bad_input_is_refused(change, message):
    q, k, v = operands()
    with pytest.raises(ValueError, match=message):
        dot_product_attention(**{"query": q, "key": k, "value": v, **change})


@pytest.mark.parametrize("implementation", ["reference", "xla", "blockwise"])
def test_a_row_that_a_bias_closes_leaves_the_others_gradients_alone(implementation):
    q, k, v = operands()
    bias = jnp.zeros((T, S)).at[3].set(-jnp.inf)

    def first_row(q, k):
        options = {"implementation": implementation, "return_residual": True}
        return dot_product_attention(q, k, v, bias, **options)[1][0, 0, 0]

    for gradient in jax.jit(jax.grad(first_row, (0, 1)))(q, k):
        assert jnp.isfinite(gradient).all()
        assert jnp.any(gradient != 0)


@pytest.mark.parametrize("implementation", ["reference", "xla", "blockwise"])
def test_large_values_behind_the_padding_leave_float16_gradients_finite(implementation):
    q, k, v = operands(jnp.float16)
    k, v = (x.at[:, 9:].set(6e4) for x in (k, v))
    options = {"key_value_seq_lengths": jnp.array([9, 9]), "implementation": implementation}
    loss = lambda *x: dot_product_attention(*x, **options).astype(jnp.float32).sum()  # noqa: E731
    assert all(np.isfinite(gradient).all() for gradient in jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v))


@pytest.mark.parametrize(
    "implementation",
    ["xla", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reference", "blockwise"))],
)
def test_a_scale_may_be_traced_and_learned(implementation):
    def total(scale):
        return dot_product_attention(*operands(), scale=scale, implementation=implementation).sum()

    traced = jax.jit(total)
    ahead, behind = traced(0.5 + 1e-2), traced(0.5 - 1e-2)
    plain = jax.jit(lambda: total(0.5))()
    assert float(traced(0.5)) == pytest.approx(float(plain), rel=tolerances.SAME_FLOAT32)
    assert float(jax.jit(jax.grad(total))(0.5)) == pytest.approx(float(ahead - behind) / 2e-2, rel=1e-2)


def test_a_bad_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be a number"):
        dot_product_attention(*operands(), scale=jnp.ones(2))


@pytest.mark.parametrize("window", [-1, 1.5, "ab", (1, 2, 3), (1.5, 2)])
def test_a_bad_window_is_refused(window):
    with pytest.raises(ValueError, match="local_window_size must be one or two whole numbers"):
        dot_product_attention(*operands(), local_window_size=window)


def test_a_number_of_numpy_is_not_refused_as_a_window():
    ours, theirs = (
        jax.jit(partial(dot_product_attention, local_window_size=size))(*operands())
        for size in (np.int64(2), (2, 2))
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("implementation", [None, "reference", "xla", "blockwise"])
@pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
def test_of_nothing_is_zero(empty, implementation):
    """An empty batch or sequence, as the last batch of a filtered data set may be one."""
    shapes = [(B, T, N, H), (B, S, K, H)]
    axis, at = {"batch": ((0, 1), 0), "queries": ((0,), 1), "keys": ((1,), 1)}[empty]
    q, k = (
        jnp.ones(tuple(0 if i in axis and j == at else n for j, n in enumerate(shape)))
        for i, shape in enumerate(shapes)
    )

    def total(q, k):
        output = dot_product_attention(q, k, k, is_causal=True, implementation=implementation)
        return output.sum(), output

    gradients, output = jax.jit(jax.grad(total, (0, 1), has_aux=True))(q, k)
    assert output.shape == q.shape
    assert not any(np.asarray(x).any() for x in (output, *gradients))


def test_dropout_of_everything_gives_zero_and_its_gradient():
    def total(q, k, v):
        return dot_product_attention(q, k, v, dropout_rate=1.0, dropout_key=KEY).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*operands())
    assert value == 0
    assert not any(np.asarray(gradient).any() for gradient in gradients)
