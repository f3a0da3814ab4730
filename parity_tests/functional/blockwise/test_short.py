"""The form for short texts, of calls that are short enough for it and of those that are not."""

import functools
import platform
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.blockwise import short
from parity_tests.functional.attention_contract import CALLS, S, cast, operands, set_to, slow_if

PLAIN = [name for name, call in CALLS.items() if not {"softcap", "sinks"} & call.keys()]


@pytest.fixture
def _any_call():
    """The calls of the contract are of few heads, which share their keys."""
    with set_to({short: {"_pays": lambda query, key: True}}):
        yield


def attend(implementation: str, qkv: Any, **options: Any) -> jax.Array:
    return jax.jit(functools.partial(dot_product_attention, implementation=implementation, **options))(*qkv)


def a_call(
    heads: tuple[int, int], texts: int = 7, tokens: int = 41, dtype: Any = jnp.float32, **options: Any
) -> tuple[Any, ...]:
    """A function, and the shapes of such texts."""
    shapes = [(texts, tokens, count, 5) for count in (heads[0], *[heads[1]] * 2)]
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    gradient, mapped = options.pop("gradient", False), options.pop("mapped", False)
    run = functools.partial(dot_product_attention, implementation="blockwise", **options)
    if gradient:
        run = jax.grad(lambda *x: dot_product_attention(*x, implementation="blockwise").sum())
    if mapped:
        run, given = jax.vmap(run), [x.update(shape=(2, *x.shape)) for x in given]
    return run, *given


def in_one_operation(run: Callable[..., Any], *operands: Any) -> bool:
    """Whether a call, which is lowered for it, takes the form for short texts."""
    with mock.patch.object(short, "forward", wraps=short.forward) as forward:
        jax.jit(run).lower(*operands)
    return forward.called


@pytest.mark.usefixtures("_any_call")
@pytest.mark.parametrize("name", PLAIN)
def test_equals_the_oracle_in_float64(name: str):
    with jax.enable_x64(True):
        call, qkv = cast(CALLS[name], jnp.float64), operands(jnp.float64)
        assert in_one_operation(functools.partial(attend, "blockwise", **call), qkv)
        actual, expected = (attend(form, qkv, **call) for form in ("blockwise", "reference"))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_any_call")
@pytest.mark.parametrize("dtype", [jnp.float32, slow_if(True, jnp.bfloat16), jnp.float16])
def test_what_is_not_seen_may_hold_anything(dtype: Any):
    q, k, v = operands(dtype, (5, 5))
    lengths = jnp.array([0, 17], jnp.int32)  # the first text sees nothing at all
    behind = (np.arange(S) >= np.array([[0], [17]]))[..., None, None]
    poisoned = [jnp.where(behind, jnp.nan, x) for x in (k, v)]
    actual = attend("blockwise", (q.at[0].set(jnp.nan), *poisoned), key_value_seq_lengths=lengths)
    assert actual.dtype == dtype
    assert (actual[0] == 0).all()
    assert jnp.array_equal(actual, attend("blockwise", (q, k, v), key_value_seq_lengths=lengths))


@pytest.mark.usefixtures("_any_call")
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 3e38])  # the last has scores that overflow
def test_what_a_key_holds_is_seen_by_those_who_see_the_key(bad: float):
    q, k, v = (x[:, :17] for x in operands(jnp.float32, (5, 5)))
    given = (2 * q, k.at[0, 11].set(bad), v)
    output, expected = (attend(form, given, is_causal=True) for form in ("blockwise", "reference"))
    np.testing.assert_allclose(output[:, :11], expected[:, :11], atol=1e-6)
    np.testing.assert_allclose(output[1:], expected[1:], atol=1e-6)
    assert jnp.isfinite(expected[1:]).all()
    assert not jnp.isfinite(output[0, 11:]).all()


@pytest.mark.usefixtures("_any_call")
def test_a_bias_of_minus_infinity_closes():
    qkv = [x[:, :17] for x in operands(jnp.float32, (5, 5))]
    bias = jnp.zeros((17, 17)).at[3].set(-jnp.inf).at[:, 5].set(-jnp.inf)
    output = attend("blockwise", qkv, bias=bias)
    assert (output[:, 3] == 0).all()
    np.testing.assert_allclose(output, attend("reference", qkv, bias=bias), atol=1e-6)


@pytest.mark.usefixtures("_any_call")
@pytest.mark.parametrize("lowest", [-1e30, jnp.finfo(jnp.float32).min])
def test_nothing_is_lower_than_what_is_closed(lowest: float):
    """Biases that stand for a mask, of rows that see nothing else, beside what a mask closes."""
    qkv = [x[:, :17] for x in operands(jnp.float32, (5, 5))]
    call = {"bias": jnp.zeros((17, 17)).at[:, :3].set(lowest), "is_causal": True}
    np.testing.assert_allclose(attend("blockwise", qkv, **call), attend("reference", qkv, **call), atol=1e-6)


@pytest.mark.usefixtures("_any_call")
def test_a_bias_closes_that_is_infinite_in_the_dtype_of_the_scores():
    with jax.enable_x64(True):
        qkv = [x[:, :17] for x in operands(jnp.float32, (5, 5))]
        call = {"bias": jnp.zeros((17, 17)).at[3].set(-1e300)}
        output = attend("blockwise", qkv, **call)
        assert (output[:, 3] == 0).all()
        np.testing.assert_allclose(output, attend("reference", qkv, **call), atol=1e-6)


def test_many_heads_of_short_texts_are_computed_at_once():
    assert in_one_operation(*a_call((5, 5), is_causal=True))  # 35 heads


@pytest.mark.skipif(platform.machine() != "x86_64", reason="XLA compiles products for other CPUs otherwise")
@pytest.mark.parametrize("options", [{}, {"is_causal": True, "bias": jnp.zeros((1, 5, 1, 41))}])
def test_xla_makes_one_loop_of_both_products(options: dict[str, Any]):
    """As long as the scores are in the form that it knows; of fewer it makes none."""
    run, *given = a_call((5, 5), texts=64, **options)
    compiled: Any = jax.jit(run).lower(*given).compile()
    computations = compiled.as_text().split("\n}\n")
    assert max(text.count(" dot(") for text in computations) == 2  # 1 in the tiles of rows that are NaN


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        pytest.param((3, 3), {}, id="few heads"),
        pytest.param((1, 1), {"texts": 64}, id="one head a text"),
        pytest.param((6, 3), {}, id="shared keys"),
        pytest.param((5, 5), {"softcap": 2.0}, id="soft-cap"),
        pytest.param((5, 5), {"score_mod": lambda score, *place: 2 * score}, id="score mod"),
        pytest.param((5, 5), {"dropout_rate": 0.5, "dropout_key": jax.random.key(0)}, id="dropout"),
        pytest.param((5, 5), {"return_residual": True}, id="log-sum-exp"),
        pytest.param((5, 5), {"sinks": jnp.zeros(5)}, id="sinks"),
        pytest.param((5, 5), {"gradient": True}, id="a gradient"),
        pytest.param((5, 5), {"mapped": True}, id="vmap"),
        pytest.param((5, 5), {"tokens": 257}, id="longer texts"),
        pytest.param((5, 5), {"dtype": jnp.float64}, id="float64"),
    ],
)
def test_other_calls_are_computed_in_tiles(heads: tuple[int, int], options: dict[str, Any]):
    with jax.enable_x64(True):
        assert not in_one_operation(*a_call(heads, **options))
