from functools import cache as once

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.nn.layers.decoder import Decoder
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.positions.attention_positions import token_positions
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.primitives import RMSNorm
from jax_attn.parity.cases import Case
from jax_attn.parity.runners.quick import quick_options
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.nn.layers.test_encoder_layer import THEIR_NAMES
from parity_tests.references import assert_equals


class TestDecoder(TwinContract):
    rows = ("decoder",)
    rounds = drops = False  # its layer
    elsewhere = ("decoder",)  # torch's own, below


class EncoderDecoder(nnx.Module):
    """What `torch.nn.Transformer` is."""

    def __init__(self, norm_placement: str):
        options = {"norm_placement": norm_placement, "final_norm": True, "eps": 1e-5, "rngs": nnx.Rngs(0)}
        self.encoder = Encoder(2, 26, 2, 29, "relu", **options)
        self.decoder = Decoder(2, 26, 2, 29, "relu", context_dim=26, **options)

    def __call__(self, source, target, source_mask, target_mask):
        context = self.encoder(source, source_mask)
        return self.decoder(target, context, target_mask, source_mask)


TRANSFORMER_NAMES = [
    (r"(decoder\..*)\bfeed_forward_norm", r"\1norm3"),
    *(
        (rf"\bcross_attention\.{name}_proj\.(\w+)$", rf"multihead_attn.in_proj_\1[{index}]")
        for index, name in enumerate("qkv")
    ),
    (r"\bcross_attention\.out_proj", "multihead_attn.out_proj"),
    (r"\bcross_attention_norm", "norm2"),
    *THEIR_NAMES,
]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_placement", ["post", pytest.param("pre", marks=pytest.mark.slow)])
def test_torchs_own_transformer_computes_the_same(norm_placement):
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((3, 7, 26)), rng.standard_normal((3, 5, 26))
    masks = [np.arange(size) < np.array([[size], [3], [1]]) for size in (7, 5)]

    def call_torch(module, source, target, source_mask, target_mask):
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        return module(
            source,
            target,
            tgt_mask=causal,
            src_key_padding_mask=~source_mask,
            tgt_key_padding_mask=~target_mask,
            memory_key_padding_mask=~source_mask,
        )

    theirs = torch.nn.Transformer(26, 2, 2, 2, 29, batch_first=True, norm_first=norm_placement == "pre")
    case = Case("padding in both", (source, target, *masks))
    options = {"names": TRANSFORMER_NAMES, "call_torch": call_torch, "whole_model": True}
    assert_equals(EncoderDecoder(norm_placement), theirs, [case], **options)


def rotary_decoder(scan: bool) -> Stack:
    """Two layers with rotary positions that attend to a context too."""
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    layers = [
        DecoderLayer(
            26,
            2,
            29,
            norm_placement="pre",
            norm="rms",
            attention=MultiHeadAttention(
                26, 4, 2, head_dim=6, is_causal=True, positions=RotaryPositions(6), **options
            ),
            context_dim=11,
            **options,
        )
        for _ in range(2)
    ]
    return Stack(layers, RMSNorm(26, **options), scan=scan)


# Texts of 6, 4 and 5 tokens: whole, padded on the left, and padded between the prompt and what follows.
REAL = jnp.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]], bool)
CONTEXT_REAL = jnp.arange(7) < jnp.array([[7], [3], [1]])


@once
def at_once() -> jax.Array:
    """What a list of layers computes of the three texts at once."""
    module = rotary_decoder(scan=False)
    run = compiled(lambda x, context: module(x, context, REAL, CONTEXT_REAL, positions=token_positions(REAL)))
    return run(draw(3, 6, 26), draw(3, 7, 11, seed=1))


@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.slow), True])
@jax.enable_x64(True)
def test_token_by_token_is_at_once(scan):
    """In chunks, one by one and in a loop; with padding anywhere; compiled once for each size of a chunk."""
    module, x, context = rotary_decoder(scan), draw(3, 6, 26), draw(3, 7, 11, seed=1)
    graphdef, state = nnx.split(module)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=2)
    def step(state, cache, x, real):
        return nnx.merge(graphdef, state)(x, mask=real, context_mask=CONTEXT_REAL, cache=cache)

    step = jax.jit(step, compiler_options=quick_options())
    start = prompted = module.init_cache(3, 8, context)
    outputs = []
    for part in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
        output, start = step(state, start, x[:, part], REAL[:, part])
        outputs.append(output)
        prompted = start if part.start == 0 else prompted
    expected = at_once()
    assert_same(jnp.concatenate(outputs, 1)[REAL], expected[REAL])

    def body(cache, token):
        output, cache = module(token[:, None], context_mask=CONTEXT_REAL, cache=cache)
        return cache, output[:, 0]

    loop = jax.jit(lambda cache, tokens: jax.lax.scan(body, cache, tokens), compiler_options=quick_options())
    end, looped = loop(prompted, x[:, 3:].swapaxes(0, 1))
    assert_same(looped.swapaxes(0, 1), expected[:, 3:])
    jax.tree.map(assert_same, end, start)

    # Beams that go on are rows of every leaf.
    rows = jnp.array([2, 0, 0])
    beams = module.reorder_cache(prompted, rows)
    assert jax.tree.map(jnp.shape, beams) == jax.tree.map(jnp.shape, prompted)
    for leaf, before in zip(jax.tree.leaves(beams), jax.tree.leaves(prompted), strict=True):
        np.testing.assert_array_equal(leaf, before[:, rows] if scan else before[rows])
    with pytest.raises(ValueError, match="the cache is for 8 tokens: 6 are in it, and 3 do not fit"):
        module(x[:, :3], cache=end)


@pytest.mark.slow
@jax.enable_x64(True)
def test_list_and_stack_are_the_same_from_the_same_seed_dropout_included():
    sizes, x, context = (2, 26, 2, 29), draw(3, 5, 26), draw(3, 7, 11, seed=1)

    arguments = {"dropout": 0.5, "attention_dropout": 0.3, "norm_placement": "sandwich", "context_dim": 11}
    modules = [
        Decoder(*sizes, **arguments, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        for options in ({}, {"scan": True, "remat": True})
    ]

    def run(module):
        graphdef, rest = nnx.split(module)

        @compiled
        def output_and_gradients(x, context):
            output, pull = jax.vjp(lambda *given: nnx.merge(graphdef, rest, copy=True)(*given), x, context)
            return output, pull(jnp.ones_like(output))

        return output_and_gradients(x, context)

    listed, looped = map(run, modules)
    jax.tree.map(assert_same, looped, listed)


@jax.enable_x64(True)
def test_attention_weights_are_captured_by_layer_and_name():
    x, context = draw(3, 5, 26), draw(3, 7, 11, seed=1)
    listed, scanned = (rotary_decoder(scan) for scan in (False, True))
    parts = [nnx.split(module) for module in (listed, scanned)]

    @compiled
    def run(x, context):
        return [capture_attention_weights(nnx.merge(*part))(x, context) for part in parts]

    (output, by_layer), (same, stacked) = run(x, context)
    expected = compiled(listed)(x, context)
    assert_same(output, expected)
    assert_same(same, expected)
    names = {"attention": (3, 4, 5, 5), "cross_attention": (3, 2, 5, 7)}
    shapes = {f"layers.{i}.{name}": shape for i in range(2) for name, shape in names.items()}
    assert {path: weights.shape for path, weights in by_layer.items()} == shapes
    assert stacked.keys() == {f"layers.{name}" for name in names}
    for path, weights in by_layer.items():
        _, layer, name = path.split(".")
        assert_same(weights.sum(-1), jnp.ones(weights.shape[:-1]))
        assert_same(stacked[f"layers.{name}"][int(layer)], weights)
    assert_same(by_layer["layers.0.attention"], jnp.tril(by_layer["layers.0.attention"]))


def test_bad_arguments_and_input_are_refused():
    options = {"rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match="num_layers must be at least 1, got num_layers=0"):
        Decoder(0, 26, 2, 29, **options)
    attention = MultiHeadAttention(26, 2, is_causal=True, **options)
    with pytest.raises(
        ValueError, match="attention is one module, which every layer would share: build the lay"
    ):
        Decoder(2, 26, 2, 29, attention=attention, **options)
    with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(5, 25\)"):
        Decoder(1, 26, 2, 29, **options)(jnp.ones((5, 25)))
