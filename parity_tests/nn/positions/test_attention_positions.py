"""What positions do in an attention: a kind of its own, decoding, padding, packed texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.alibi import AlibiPositions
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, token_positions
from jax_attn.nn.positions.axial_rotary import AxialRotaryPositions
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.rotary_scaling import (
    DynamicNTKScaling,
    LongRopeScaling,
    YarnScaling,
)
from jax_attn.nn.positions.shaw import ShawPositions
from jax_attn.nn.positions.t5 import T5Positions
from parity_tests.from_scratch.properties import assert_same, compiled, draw

FLOAT64 = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
LONG = dict(short_factor=(1.0, 2.0), long_factor=(3.0, 5.0), factor=4.0, original_length=5)


class Fading(nnx.Module, AttentionPositions):
    """Positions that nobody else has: `scores / (1 + rate[h] |p_i - p_j|)`, and keys that grow with theirs."""

    def __init__(self, rate: list[float]):
        self.rate = nnx.Param(jnp.array(rate))

    def rotate(self, x, positions):
        return x if x.shape[2] == 2 else x * (1 + 0.1 * positions[..., None, None])

    def score_mod(self, query, scale, places):
        rate = self.rate[...]
        return lambda score, b, h, q_idx, kv_idx: (
            score / (1 + rate[h] * abs(places.distance(b, q_idx, kv_idx)))
        )


@jax.enable_x64(True)
def test_positions_and_a_score_change_of_ones_own():
    """Neither is known to any file of the attention. NumPy's positions are as good as JAX's."""
    module = MultiHeadAttention(
        10,
        2,
        1,
        is_causal=True,
        positions=Fading([0.5, 2.0]),
        score_mod=lambda score, b, h, q, k: score + 0.01 * h * q * k,
        **FLOAT64,
    )
    x, places = draw(1, 5, 10), np.array([[3, 4, 8, 0, 1]])

    def formula(module, x):
        q, k, v = (proj(x)[0].reshape(5, -1, 5) for proj in (module.q_proj, module.k_proj, module.v_proj))
        k = k * (1 + 0.1 * places[0, :, None, None])
        distance = abs(places[0][:, None] - places[0])
        heads = []
        for h in range(2):
            scores = q[:, h] @ k[:, 0].T / 5**0.5 / (1 + module.positions.rate[h] * distance)
            scores = scores + 0.01 * h * places[0][:, None] * places[0]
            seen = jnp.tril(jnp.ones((5, 5), bool))
            heads.append(jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v[:, 0])
        return module.out_proj(jnp.concatenate(heads, axis=-1))[None]

    def run(apply):
        def loss(module, x):
            output = apply(module, x)
            return (output**2).sum(), output

        return nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))(module, x)

    ours = run(lambda module, x: module(x, positions=places))
    expected = run(formula)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(assert_same, ours, expected)


KINDS = {
    "rotary": lambda: RotaryPositions(4, base=7.0),
    "rotary-interleaved": lambda: RotaryPositions(4, rotary_dim=2, interleaved=True),
    "rotary-yarn": lambda: RotaryPositions(4, scaling=YarnScaling(4.0, 17)),
    "rotary-longrope": lambda: RotaryPositions(4, scaling=LongRopeScaling(**LONG, choice="long")),
    # As long as in training: what decides by the text decides for the same.
    "rotary-longrope-short": lambda: RotaryPositions(
        4, scaling=LongRopeScaling(**{**LONG, "original_length": 7})
    ),
    "rotary-dynamic-short": lambda: RotaryPositions(4, scaling=DynamicNTKScaling(2.0, 7)),
    "axial-rotary": lambda: AxialRotaryPositions(4, width=3, base=7.0),
    "alibi": lambda: AlibiPositions(3),
    "t5": lambda: T5Positions(3, 5, 6, bidirectional=False, **FLOAT64),
    "shaw": lambda: ShawPositions(4, 2, **FLOAT64),
    "shaw-keys": lambda: ShawPositions(4, 2, values=False, **FLOAT64),
}


QUICK = (
    ("rotary", None),
    ("rotary-longrope-short", None),
    ("axial-rotary", 3),
    ("alibi", None),
    ("t5", 3),
    ("shaw", None),
)


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        pytest.param(kind, window, marks=() if (kind, window) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for window in (None, 3)
        if window is None or not kind.endswith("-short")
    ],
)
@jax.enable_x64(True)
def test_a_text_is_the_same_padded_packed_and_token_by_token(kind, window):
    module = MultiHeadAttention(12, 3, 1, is_causal=True, window=window, positions=KINDS[kind](), **FLOAT64)
    x, starts = draw(2, 7, 12), jnp.array([[0], [3]])
    real = jnp.arange(7) >= starts  # padding on the left

    @compiled
    def run(x):
        alone = module(x[:1]), module(x[1:, 3:])
        padded = module(x, mask=real, positions=token_positions(real))
        packed = module(
            jnp.concatenate([x[1:, 3:], x[:1]], axis=1),
            positions=jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]]),
            segment_ids=jnp.array([[0] * 4 + [1] * 7]),
        )

        def step(cache, token):
            output, cache = module(token[0][:, None], mask=token[1][:, None], cache=cache)
            return cache, output[:, 0]

        _, decoded = jax.lax.scan(step, module.init_cache(2, 7), (x.swapaxes(0, 1), real.T))
        return alone, padded, packed, decoded.swapaxes(0, 1)

    (long, short), padded, packed, decoded = run(x)
    assert np.abs(long - draw(1, 7, 12)).max() > 0.1
    for rows in (padded, decoded):
        assert_same(rows[:1], long)
        assert_same(rows[1:, 3:], short)
    assert_same(packed, jnp.concatenate([short, long], axis=1))


def test_what_cannot_be_computed_token_by_token_says_why():
    """Texts that are longer than those of training, and those of which nobody knows how long they get."""
    for scaling, why in (
        (
            DynamicNTKScaling(2.0, 5),
            "rotary positions with dynamic NTK scaling cannot be cached: a new token changes all frequencies",
        ),
        (
            LongRopeScaling(**LONG),
            "rotary positions with longrope scaling cannot be cached unless choice is given: "
            "a text that grows too long changes all frequencies",
        ),
    ):
        positions = RotaryPositions(4, scaling=scaling)
        for window, got in ((None, 6), (3, "a rolling cache")):
            module = MultiHeadAttention(
                12, 3, is_causal=True, window=window, positions=positions, rngs=nnx.Rngs(0)
            )
            with pytest.raises(ValueError, match=f"^{why}, but for texts of at most 5 tokens, got {got}$"):
                module.init_cache(2, 6)
        module = MultiHeadAttention(12, 3, is_causal=True, positions=positions, rngs=nnx.Rngs(0))
        other = MultiHeadAttention(12, 3, is_causal=True, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=f"^{why}, but for texts of at most 5 tokens, got 6$"):
            module(jnp.zeros((2, 1, 12)), cache=other.init_cache(2, 6))
        assert module.init_cache(2, 5).size == 5


def test_tokens_are_counted_wherever_the_padding_stands():
    mask = jnp.array([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
    expected = np.array([[0, 1, 2, 3], [9, 9, 0, 1], [0, 9, 9, 1], [9, 9, 9, 9]])
    np.testing.assert_array_equal(token_positions(mask, padding=9), expected)
    np.testing.assert_array_equal(token_positions(mask), np.where(expected == 9, 0, expected))


def test_places_are_looked_up_or_counted():
    query, key = jnp.array([[4, 6]]), jnp.array([[0, 1, 5], [2, 2, 9]])
    places = Places(query, key)
    expected = key[:, None, :] - query[:, :, None]
    np.testing.assert_array_equal(places.distances(2, 3), expected)
    assert all(places.distance(b, t, s) == expected[b, t, s] for b, t, s in np.ndindex(2, 2, 3))
    np.testing.assert_array_equal(Places().distances(2, 3), [[[0, 1, 2], [-1, 0, 1]]])
    assert Places().distance(1, 2, 5) == 3
