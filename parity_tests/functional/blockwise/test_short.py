"""The form for short texts, of calls that are short enough for it and of those that are not."""

import functools
from typing import Any

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


def program(heads: tuple[int, int], gradient: bool = False, **options: Any) -> str:
    """What is compiled for 7 texts of 41 tokens."""
    shapes = [(7, 41, count, 5) for count in (heads[0], *[heads[1]] * 2)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    run = functools.partial(dot_product_attention, implementation="blockwise", **options)
    return jax.jit(jax.grad(lambda *x: run(*x).sum()) if gradient else run).lower(*given).as_text()


@pytest.mark.usefixtures("_any_call")
@pytest.mark.parametrize("name", PLAIN)
def test_equals_the_oracle_in_float64(name: str):
    with jax.enable_x64(True):
        call, qkv = cast(CALLS[name], jnp.float64), operands(jnp.float64)
        assert "while" not in jax.jit(functools.partial(attend, "blockwise", **call)).lower(qkv).as_text()
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
def test_a_bias_of_minus_infinity_closes():
    qkv = [x[:, :7] for x in operands(jnp.float32, (5, 5))]
    bias = jnp.zeros((7, 7)).at[3].set(-jnp.inf).at[:, 5].set(-jnp.inf)
    output = attend("blockwise", qkv, bias=bias)
    assert (output[:, 3] == 0).all()
    np.testing.assert_allclose(output, attend("reference", qkv, bias=bias), atol=1e-6)


def test_many_heads_of_short_texts_are_computed_at_once():
    assert "while" not in program((5, 5), is_causal=True)  # 35 heads, and no loop over them


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        pytest.param((3, 3), {}, id="few heads"),
        pytest.param((6, 3), {}, id="shared keys"),
        pytest.param((5, 5), {"softcap": 2.0}, id="soft-cap"),
        pytest.param((5, 5), {"score_mod": lambda score, *place: 2 * score}, id="score mod"),
        pytest.param((5, 5), {"dropout_rate": 0.5, "dropout_key": jax.random.key(0)}, id="dropout"),
        pytest.param((5, 5), {"return_residual": True}, id="log-sum-exp"),
        pytest.param((5, 5), {"sinks": jnp.zeros(5)}, id="sinks"),
        pytest.param((5, 5), {"gradient": True}, id="a gradient"),
    ],
)
def test_other_calls_are_computed_in_tiles(heads: tuple[int, int], options: dict[str, Any]):
    assert "while" in program(heads, **options)
