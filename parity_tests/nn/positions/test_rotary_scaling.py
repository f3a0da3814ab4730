import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
)
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import float32_lifted

WIDTH = 24
FACTORS = {
    "short_factor": tuple(1 + 0.1 * i for i in range(WIDTH // 2)),
    "long_factor": tuple(1.5 + i**2 for i in range(WIDTH // 2)),
}
YARN = dict(factor=7.0, original_length=997)
LONG = dict(**FACTORS, factor=11.0, original_length=61)


def named(options: dict, **more) -> dict:
    """The options under the names that configurations have for them."""
    return {
        "original_max_position_embeddings" if k == "original_length" else k: v for k, v in options.items()
    } | more


# A scaling, and what `config.json` says of it.
SCALINGS = {
    "linear": (LinearScaling(3.0), dict(rope_type="linear", factor=3.0)),
    "dynamic": (DynamicNTKScaling(3.0, 61), dict(rope_type="dynamic", factor=3.0)),
    "yarn": (YarnScaling(**YARN), named(YARN, rope_type="yarn")),
    "yarn with an attention factor": (
        YarnScaling(**YARN, attention_factor=1.7, beta_fast=17.0, beta_slow=0.5),
        named(YARN, rope_type="yarn", attention_factor=1.7, beta_fast=17.0, beta_slow=0.5),
    ),
    "yarn of DeepSeek": (
        YarnScaling(**YARN, mscale=0.7, mscale_all_dim=0.3, truncate=False),
        named(YARN, rope_type="yarn", mscale=0.7, mscale_all_dim=0.3, truncate=False),
    ),
    "yarn that makes nothing longer": (
        YarnScaling(0.5, 997, beta_fast=9.0, beta_slow=8.9, truncate=False),
        dict(
            rope_type="yarn",
            factor=0.5,
            original_max_position_embeddings=997,
            beta_fast=9.0,
            beta_slow=8.9,
            truncate=False,
        ),
    ),
    "llama3": (
        Llama3Scaling(8.0, 1.0, 4.0, 997),
        dict(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=997,
        ),
    ),
    "longrope": (LongRopeScaling(**LONG), named(LONG, rope_type="longrope")),
    "longrope with an attention factor": (
        LongRopeScaling(**LONG, attention_factor=1.3),
        named(LONG, rope_type="longrope", attention_factor=1.3),
    ),
    "longrope that makes nothing longer": (
        LongRopeScaling(**{**LONG, "factor": 1.0}),
        named({**LONG, "factor": 1.0}, rope_type="longrope"),
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
@jax.enable_x64(True)
def test_frequencies_and_factor_are_those_of_transformers(name):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.configuration_llama import LlamaConfig

    scaling, parameters = SCALINGS[name]
    sizes = dict(hidden_size=5 * WIDTH, num_attention_heads=5, max_position_embeddings=61)
    config = LlamaConfig(**sizes, rope_parameters={**parameters, "rope_theta": 500.0})
    for length in (1, 61, 62, 509):
        with float32_lifted():
            expected, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=length)
        assert scaling.attention_scaling == pytest.approx(factor, rel=1e-15)
        assert_same(scaling.frequencies(500.0, WIDTH, length), expected)
        given = scaling.frequencies(500.0, WIDTH, jnp.full((1, 1, 1), float(length)))
        assert_same(given, np.broadcast_to(expected, given.shape))


@pytest.mark.parametrize(
    "scaling", [DynamicNTKScaling(3.0, 5), LongRopeScaling(**{**LONG, "original_length": 5})]
)
@jax.enable_x64(True)
def test_each_text_decides_for_itself(scaling):
    """A short text among longer ones is what it is alone, and padding is no part of it."""
    positions, x = RotaryPositions(WIDTH, scaling=scaling), draw(2, 7, 3, WIDTH)
    turn, places = compiled(positions), np.array([[0, 0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]])
    together = compiled(lambda x: positions(x, places))(x)
    assert_same(together[1:], turn(x[1:]))
    assert_same(together[:1, 4:], turn(x[:1, 4:]))
    assert np.abs(turn(x[1:])[0, 3] - turn(x[1:, :4])[0, 3]).max() > 1e-3


@jax.enable_x64(True)
def test_a_choice_of_long_factors_is_one_for_all_texts():
    x = draw(2, 7, 3, WIDTH)
    by_length = {
        length: LongRopeScaling(**{**LONG, "original_length": 6, "attention_factor": 1.0})
        for length in (6, 7)
    }
    for choice, length in (("short", 6), ("long", 7)):
        chosen = LongRopeScaling(**{**LONG, "original_length": 6, "attention_factor": 1.0}, choice=choice)
        decided = compiled(RotaryPositions(WIDTH, scaling=by_length[length]))(x[:, :length])
        assert_same(compiled(RotaryPositions(WIDTH, scaling=chosen))(x)[:, :length], decided)
        assert chosen.why_no_cache is None


def test_bad_scalings_are_refused():
    wide = {**LONG, "long_factor": (1.0, 2.0)}
    for make, message in (
        (lambda: LinearScaling(0.0), "factor must be above 0, got factor=0.0"),
        (lambda: DynamicNTKScaling(2.0, 0), "original_length must be at least 1, got original_length=0"),
        (
            lambda: YarnScaling(2.0, 997, beta_fast=1.0, beta_slow=32.0),
            "beta_fast must be above beta_slow=32.0, got beta_fast=1.0",
        ),
        (
            lambda: Llama3Scaling(8.0, 4.0, 4.0, 997),
            "high_freq_factor must be above low_freq_factor=4.0, got high_freq_factor=4.0",
        ),
        (
            lambda: LongRopeScaling(**{**LONG, "original_length": 1}),
            "original_length must be above 1 without attention_factor, got original_length=1",
        ),
        (
            lambda: RotaryPositions(WIDTH, base=1.0, scaling=YarnScaling(2.0, 997)),
            "yarn scaling needs a base other than 1, with which all pairs turn alike",
        ),
        (
            lambda: LongRopeScaling(**LONG, choice="longer"),
            "choice must be one of None, short, long, got 'longer'",
        ),
        (lambda: LongRopeScaling(**{**LONG, "short_factor": ()}), "short_factor must be above 0"),
        (
            lambda: RotaryPositions(WIDTH, scaling=LongRopeScaling(**wide)),
            "long_factor must have a factor for each of 12 pairs, got 2",
        ),
        (
            lambda: RotaryPositions(WIDTH, rotary_dim=2, scaling=DynamicNTKScaling(2.0, 997)),
            "dynamic NTK scaling needs more than one pair of rotated features",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
