"""The form for short texts, of calls that are short enough for it and of those that are not."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.blockwise import serial, short
from parity_tests.functional.attention_contract import AnotherForm, operands, set_to


@pytest.fixture(scope="class")
def _whether_it_pays_or_not():
    with set_to({short: {"_pays": lambda query, key: True}}):
        yield


@pytest.mark.usefixtures("_whether_it_pays_or_not")
class TestShort(AnotherForm):
    implementation = "blockwise"


def program(heads: tuple[int, int], **options) -> str:
    """What is compiled for 7 texts of 41 tokens."""
    shapes = [(7, 41, count, 5) for count in (heads[0], *[heads[1]] * 2)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    attend = functools.partial(dot_product_attention, implementation="blockwise", **options)
    return jax.jit(attend).lower(*given).as_text()


def test_many_heads_of_short_texts_are_computed_at_once():
    assert "while" not in program((5, 5), is_causal=True)  # 35 heads, and no loop over them


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        pytest.param((3, 3), {}, id="few heads"),
        pytest.param((6, 3), {}, id="shared keys"),
        pytest.param((5, 5), {"softcap": 2.0}, id="soft-cap"),
        pytest.param((5, 5), {"score_mod": lambda score, *place: 2 * score}, id="score mod"),
        pytest.param(
            (5, 5),
            {"dropout_rate": 0.5, "dropout_key": jax.random.key(0)},
            id="dropout",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_calls_are_computed_in_tiles(heads: tuple[int, int], options: dict):
    assert "while" in program(heads, **options)


def test_a_bias_of_minus_infinity_closes_a_row():
    """Without a mask: the row's largest score is the number that closes, and its weights are equal."""
    q, k, v = (x[:1, :7] for x in operands(jnp.float32, (5, 5)))
    bias = jnp.zeros((7, 7)).at[3].set(-jnp.inf).at[:, 5].set(-jnp.inf)
    with set_to({short: {"_pays": lambda query, key: True}}):
        output, lse = dot_product_attention(
            q, k, v, bias=bias, implementation="blockwise", return_residual=True
        )
    assert (output[:, 3] == 0).all()
    assert (lse[:, 3] == -jnp.inf).all()
    expected = dot_product_attention(q, k, v, bias=bias, implementation="reference")
    assert jnp.allclose(output, expected, atol=1e-6)


def test_gradients_are_those_of_the_tiles():
    assert short.backward is serial.backward
