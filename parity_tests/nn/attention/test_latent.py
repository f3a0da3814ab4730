import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.latent import LatentAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.rotary_scaling import YarnScaling, rotary_frequencies
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_nothing_to_attend_to_gives,
    assert_same,
    compiled,
    draw,
)
from parity_tests.nn.attention.decoding import assert_decodes_as_at_once
from parity_tests.references import assert_equals


class TestLatentAttention(TwinContract):
    rows = ("attention-latent", "attention-latent-plain-queries", "attention-latent-window")
    rounds = False
    elsewhere = ("attention-latent-plain-queries",)  # transformers below


SIZES = dict(
    embed_dim=29, num_heads=3, kv_lora_rank=17, qk_nope_head_dim=13, qk_rope_head_dim=6, v_head_dim=11
)


def attention(**options) -> LatentAttention:
    given = {**SIZES, "positions": RotaryPositions(6, interleaved=True), "is_causal": True, **options}
    return LatentAttention(**given, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))


YARN = {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7}


@pytest.mark.parametrize(
    ("rank", "interleaved", "yarn"), [(19, True, False), (None, False, True)], ids=["low-rank", "yarn"]
)
def test_transformers_deepseek_v3_computes_the_same(rank, interleaved, yarn):
    import torch
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3Attention,
        DeepseekV3RotaryEmbedding,
    )

    config = DeepseekV3Config(
        hidden_size=29,
        num_attention_heads=3,
        num_key_value_heads=3,
        kv_lora_rank=17,
        q_lora_rank=rank,
        qk_nope_head_dim=13,
        qk_rope_head_dim=6,
        v_head_dim=11,
        rope_interleave=interleaved,
        attention_bias=True,
        rope_parameters={"rope_theta": 1e4, "rope_type": "default"}
        | ({"rope_type": "yarn", "original_max_position_embeddings": 64, **YARN} if yarn else {}),
    )
    config._attn_implementation = "eager"
    scale = 19**-0.5 * (0.1 * 0.7 * math.log(40.0) + 1) ** 2 if yarn else None
    scaling = YarnScaling(original_length=64, **YARN) if yarn else None
    positions = RotaryPositions(6, interleaved=interleaved, scaling=scaling)
    ours = attention(q_lora_rank=rank, bias=True, scale=scale, positions=positions)

    # Theirs are kept in float32: ours are the same in float64.
    theirs = DeepseekV3RotaryEmbedding(config)
    frequencies = rotary_frequencies(1e4, 6) if scaling is None else scaling.frequencies(1e4, 6, 5)
    np.testing.assert_allclose(frequencies, theirs.inv_freq, rtol=1e-6)

    def call(module, x):
        angles = torch.arange(5, dtype=x.dtype)[:, None] * torch.tensor(frequencies, dtype=x.dtype)
        angles = torch.cat([angles, angles], dim=-1)[None]
        waves = (angles.cos() * theirs.attention_scaling, angles.sin() * theirs.attention_scaling)
        later = torch.full((5, 5), -torch.inf, dtype=x.dtype).triu(1)
        return module(x, waves, later)[0]

    cases = [Case("plain", (np.asarray(draw(2, 5, 29)),))]
    names = [("kv_a_proj", "kv_a_proj_with_mqa"), ("_a_norm", "_a_layernorm"), ("out_proj", "o_proj")]
    assert_equals(ours, DeepseekV3Attention(config, 0), cases, call_torch=call, names=names)


@jax.enable_x64(True)
def test_the_absorbed_form_is_the_plain_one_and_so_are_its_gradients():
    """Outputs, weights, and the gradients of every parameter and of the input; with masks and other positions."""
    module, x = attention(q_lora_rank=7, bias=True), draw(2, 5, 29)
    pairs = jnp.asarray(np.random.default_rng(3).random((2, 3, 5, 5)) < 0.7).at[0, :, 3].set(False)
    positions = jnp.array([[3, 4, 5, 9, 11], [0, 0, 1, 2, 7]])
    graphdef, state = nnx.split(module)

    @jax.jit
    def run(state, x):
        def form(absorbed):
            def call(state, x):
                module = nnx.merge(graphdef, state)
                return module(x, pairs, positions=positions, absorbed=absorbed, return_weights=True)

            given, pull = jax.vjp(call, state, x)
            cotangent = jax.tree.map(lambda part: jnp.cos(jnp.arange(part.size)).reshape(part.shape), given)
            return jax.tree.leaves((given, pull(cotangent)))

        return form(False), form(True)

    plain, absorbed = run(state, x)
    for one, other in zip(plain, absorbed, strict=True):
        if jnp.issubdtype(one.dtype, jnp.floating):
            assert_same(one, other)


@jax.enable_x64(True)
def test_the_form_of_fewer_products_is_taken():
    module, x = attention(kv_lora_rank=31), draw(1, 5, 29)

    def widths_of_products(absorbed, tokens, cache):
        def run(x, cache):
            return module(x, cache=cache, absorbed=absorbed)

        return str(jax.make_jaxpr(run)(x[:, :tokens], cache))

    long = module.init_cache(1, 64)
    for tokens, cache, expected in ((1, long, True), (5, None, False)):
        taken, same, other = (
            widths_of_products(form, tokens, cache) for form in (None, expected, not expected)
        )
        assert taken == same != other


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 3])
@jax.enable_x64(True)
def test_token_by_token_is_at_once(window):
    assert_decodes_as_at_once(attention(q_lora_rank=7, window=window), draw(2, 9, 29))


@jax.enable_x64(True)
def test_a_packed_text_gets_what_it_gets_alone():
    """In both forms, with a window, wherever it stands."""
    module, x = attention(window=3), draw(1, 9, 29)
    places = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 5]])

    @compiled
    def run(x):
        packed = {"positions": places, "segment_ids": jnp.cumsum(places == 0, axis=1)}
        return module(x[:, 3:]), *(module(x, **packed, absorbed=form)[:, 3:] for form in (True, False))

    alone, *packed = run(x)
    for output in packed:
        assert_same(output, alone)


@jax.enable_x64(True)
def test_a_cache_holds_the_latent_and_the_rotary_part_alone():
    cache = attention().init_cache(2, 11)
    assert cache.key.shape == (2, 11, 1, 6)
    assert cache.value.shape == (2, 11, 1, 17)


@jax.enable_x64(True)
def test_where_nothing_may_be_attended_to_only_the_bias_is_left():
    module = attention(bias=True)
    for absorbed in (False, True):
        assert_nothing_to_attend_to_gives(
            lambda x, mask=None, form=absorbed: module(x, mask, absorbed=form),
            draw(3, 5, 29),
            module.out_proj.bias[...],
        )


@jax.enable_x64(True)
def test_weights_are_returned_and_captured():
    module, x = attention(), draw(2, 5, 29)
    graphdef, state = nnx.split(module)

    @compiled
    def run(x):
        return module(x, return_weights=True), capture_attention_weights(nnx.merge(graphdef, state))(x)

    (output, weights), (same_output, captured) = run(x)
    assert weights.shape == (2, 3, 5, 5)
    assert_same(weights.sum(axis=-1), jnp.ones((2, 3, 5)))
    assert_same(captured[""], weights)
    assert_same(same_output, output)
    assert_same(compiled(module)(x), output)


def test_bad_arguments_are_refused():
    for options, message in (
        ({"kv_lora_rank": 0}, "kv_lora_rank must be at least 1, got kv_lora_rank=0"),
        ({"q_lora_rank": 0}, "q_lora_rank must be at least 1, got q_lora_rank=0"),
        ({"v_head_dim": 0}, "v_head_dim must be at least 1"),
        ({"window": 0}, "window must be at least 1, got window=0"),
        ({"positions": RotaryPositions(8)}, "positions are for heads of width 8, the attention has 6"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(**options)
    with pytest.raises(ValueError, match="a cache is for attention with is_causal=True"):
        attention(is_causal=False).init_cache(2, 11)


def test_bad_input_is_refused():
    module, x = attention(), jnp.ones((2, 5, 29))
    cache = module.init_cache(2, 4)
    for call, message in (
        (lambda: module(x[..., :28]), r"x must have shape \(t, 29\) or \(b, t, 29\), got \(2, 5, 28\)"),
        (lambda: module(x, cache=cache), "the cache is for 4 tokens: 0 are in it, and 5 do not fit"),
        (lambda: module(x[:1], cache=cache), r"the cache must hold keys \(1, 4, 1, 6\)"),
        (lambda: module(x[0], cache=cache), "x must have a batch axis where there is a cache"),
        (
            lambda: module(x[:, :2], positions=jnp.ones((2, 2), int), cache=cache),
            "positions cannot be given together with a cache",
        ),
        (
            lambda: module(x[:, :2], segment_ids=jnp.ones((2, 2), int), cache=cache),
            "segment_ids cannot be given together with a cache",
        ),
        (lambda: module(x, jnp.ones((2, 4), bool)), "mask must have one of the shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
