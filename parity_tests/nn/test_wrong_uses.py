"""What a user gets wrong, in modules of every kind: one line that names what was given and what was expected."""

import math
import re
from collections.abc import Sequence
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from jax.typing import DTypeLike

import jax_attn.models
import jax_attn.nn
import torch_ref.models
import torch_ref.nn
from jax_attn.models import CausalLM, TextDecoder
from jax_attn.nn import (
    AxialRotaryPositions,
    CausalLMHead,
    ClassificationHead,
    Conv,
    Decoder,
    DecoderLayer,
    DisentangledAttention,
    Embedding,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    GatedDeltaNet,
    KVCache,
    LatentAttention,
    LayerNorm,
    LinearAttention,
    LongRopeScaling,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    Stack,
)
from jax_attn.nn.attention.cache import require_cache

OWN = {"rngs": nnx.Rngs(0)}
LATENT = {"kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, **OWN}

WRONG = {
    int: ("3", True, 2.5, math.nan, -1),
    float: ("0.1", True, math.nan, math.inf),
    bool: ("false", 1),
    Any: (3, "attention", MultiHeadAttention),
    Sequence[Any]: (3, "layers", MultiHeadAttention),
    nnx.Rngs: (0,),
    DTypeLike: ("bf16", jnp.int32),
}
BELOW = {r".*_dim": 0, r".*dropout|drop_path|.*eps": -0.5, r"(residual_)?scale": 0.0}


DOORS = {nnx.Module: (jax_attn.nn, jax_attn.models), torch.nn.Module: (torch_ref.nn, torch_ref.models)}


def constructors(modules):
    """Every constructor of the doors that is written here, its arguments, and what is wrong for each."""
    for door in DOORS[modules]:
        for kind in (getattr(door, name) for name in door.__all__):
            ours = isinstance(kind, type) and kind.__module__.startswith(door.__name__)
            if ours and issubclass(kind, modules) and "__init__" in vars(kind):
                for argument in signature(kind.__init__).parameters.values():
                    if argument.kind is not argument.VAR_KEYWORD:
                        yield from ((kind, argument.name, value) for value in wrong_values(argument))


def wrong_values(argument):
    for annotation, values in WRONG.items():
        if argument.annotation in (annotation, annotation | None):
            yield from values
    yield from (value for name, value in BELOW.items() if re.fullmatch(name, argument.name))


@pytest.mark.parametrize("modules", DOORS)
def test_no_constructor_takes_what_is_none_of_its_kind(modules):
    taken, tried = [], 0
    for kind, name, value in constructors(modules):
        tried += 1
        if name.endswith(("_idx", "_id")) and value == -1:
            continue  # the last row, as in torch
        with pytest.raises((ValueError, TypeError)) as refused:
            kind.__init__(object(), **{name: value})  # refused before it is seen that the others are missing
        message = str(refused.value)
        if refused.type is not ValueError or not message.startswith(f"{name} must be") or "\n" in message:
            taken.append(f"{kind.__name__}({name}={value!r}): {message}")
    assert tried > 500
    assert not taken, "\n".join(taken)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("MultiHeadAttention", (8, 3), "embed_dim must be divisible by num_heads, got embed_dim=8 and num_h"),
        ("MultiHeadAttention", (8, 4, 3), "num_heads must be divisible by num_kv_heads, got num_heads=4 and"),
        ("MultiHeadAttention", (8, 0), "num_heads must be at least 1, got num_heads=0"),
        ("DifferentialAttention", (8, 4, 3), "num_heads must be divisible by num_kv_heads"),
        ("GatedDeltaNet", (8, 4, 3), "num_heads must be divisible by num_qk_heads"),
        *(
            (kind, (8, 3, *more), "embed_dim must be divisible by num_heads, got embed_dim=8 and num_heads=3")
            for kind, more in (
                ("AttentionPooling", ()),
                ("DisentangledAttention", (7,)),
                ("LinearAttention", ()),
                ("LinformerAttention", (7, 5)),
                ("NystromAttention", ()),
                ("PerformerAttention", ()),
                ("RelativeAttention", ()),
            )
        ),
        ("FeedForward", (8, 7, "gelo"), "activation must be one of gelu, .*, got 'gelo'"),
        ("EncoderLayer", (8, 2, 7, "gelu", "before"), "norm_placement must be one of post, .* got 'before'"),
        ("MaskedLMHead", (8, 7, "gelu", 1e-5, True, None, "l2"), "norm must be one of layer, .* got 'l2'"),
        ("Pooler", (8, "all"), "kind must be one of first, last, mean, max, got 'all'"),
        ("Embeddings", (7, 8, 5, 0, 0.0, "none"), "positions must be one of learned, .* got 'none'"),
        ("Stack", (3,), "layers must be a sequence of modules, built, got .*3"),
    ],
)
def test_a_twin_refuses_the_same(kind, arguments, message):
    ours = signature(getattr(jax_attn.nn, kind).__init__).parameters
    for door, options in ((torch_ref.nn, {}), (jax_attn.nn, OWN if "rngs" in ours else {})):
        with pytest.raises(ValueError, match=message):
            getattr(door, kind)(*arguments, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiHeadAttention(8, 2.0, **OWN), "num_heads must be an integer, got num_heads=2.0"),
        (
            lambda: MultiHeadAttention(8, 2, window=2.5, **OWN),
            "window must be an integer, got window=2.5",
        ),
        (lambda: MultiHeadAttention(8, 2, kdim=0, **OWN), "kdim must be at least 1, got kdim=0"),
        (
            lambda: MultiHeadAttention(8, 2, window=3, kdim=7, **OWN),
            "window must be None where kdim=7 is not embed_dim=8: it is a distance within one sequence",
        ),
        (
            lambda: DecoderLayer(8, 2, 7, cross_attention=MultiHeadAttention(8, 2, window=3, **OWN), **OWN),
            "cross_attention must be without a window, got one with window=3",
        ),
        (
            lambda: EncoderLayer(
                8, hidden_dim=7, attention=MultiHeadAttention(8, 2, out_dim=5, **OWN), **OWN
            ),
            "attention must be for embed_dim=8, got one for 5",
        ),
        (lambda: RotaryPositions(8, base=0.0), "base must be above 0, got base=0.0"),
        (lambda: AxialRotaryPositions(8, 3, base=-1.0), "base must be above 0, got base=-1.0"),
        (
            lambda: MultiHeadAttention(8, 2, positions=SinusoidalPositions(8, 8), **OWN),
            "positions must be AttentionPositions, such as RotaryPositions, got SinusoidalPositions$",
        ),
        (
            lambda: LatentAttention(8, 2, positions="rotary", **LATENT),
            "positions must be AttentionPositions, such as RotaryPositions, got 'rotary'",
        ),
        (lambda: MultiHeadAttention(8, 2, mask_mod=3, **OWN), "mask_mod must be a function, or None, got 3"),
        (
            lambda: MultiHeadAttention(8, 2, mask_mod=lambda q, k: q >= k, **OWN),
            r"mask_mod\(b, h, q_idx, kv_idx\) must map scalars to one bool; calling it failed",
        ),
        (
            lambda: MultiHeadAttention(8, 2, score_mod=lambda score, b, h, q, k: score > 0, **OWN),
            r"score_mod\(score, b, h, q_idx, kv_idx\) must map scalars to one number, got",
        ),
        (
            lambda: MultiHeadAttention(8, 2, score_mod=3, **OWN),
            "score_mod must be a function, or None, got 3",
        ),
        (
            lambda: LatentAttention(8, 2, implementation="flash", **LATENT),
            "implementation must be one of None, blockwise, cudnn, pallas, reference, xla, got 'flash'",
        ),
        (lambda: FeedForward(8, 7, rngs=0), r"rngs must be flax's nnx.Rngs, such as nnx.Rngs\(0\), got int"),
        (
            lambda: Embeddings(7, 8, 5, rngs=jax.random.key(0)),
            "rngs must be flax's nnx.Rngs, .* got PRNGKeyArray",
        ),
        (
            lambda: Encoder(1, 8, 2, 7, dtype="bf16", **OWN),
            "dtype must be a floating dtype, such as jnp.bfloat16, got 'bf16'",
        ),
        (lambda: Encoder(1, 8, 2, 7, eps=-1.0, **OWN), "eps must be at least 0, got eps=-1.0"),
        (lambda: RotaryPositions(8, scaling=2.0), "scaling must be a RotaryScaling, such as .* got 2.0"),
        (lambda: MultiHeadAttention(8, 2, qk_norm="l2", **OWN), "qk_norm must be one of layer, .* got 'l2'"),
        (
            lambda: MultiHeadAttention(8, 2, bias=2, **OWN),
            "bias must be some of q, k, v, out, in a tuple, got 2",
        ),
        (
            lambda: MultiHeadAttention(8, 2, gate=["head"], **OWN),
            r"gate must be one of head, .* got \['head'\]",
        ),
        (
            lambda: ClassificationHead(8, 3, pooling="all", **OWN),
            "pooling must be one of first, .* got 'all'",
        ),
        (lambda: Embeddings(7, 8, 5, positions=3, **OWN), "positions must be one of learned, .* got 3"),
        (lambda: Embeddings(7, 8, 0, **OWN), "max_positions must be at least 1, got max_positions=0"),
        (lambda: Embedding(0, 8, **OWN), "num_embeddings must be at least 1, got num_embeddings=0"),
        (lambda: LayerNorm(0, **OWN), "normalized_shape must be at least 1, got normalized_shape=0"),
        (lambda: Conv(8, 8, (), **OWN), r"kernel_size must be a tuple, one length for each axis, got \(\)"),
        (lambda: LongRopeScaling(2.0, (2.0,), 2.0, 8), "short_factor must be a tuple, .* got 2.0"),
        (lambda: LongRopeScaling(("2",), (2.0,), 2.0, 8), "short_factor must be above 0, got .*'2'"),
        (
            lambda: MultiHeadAttention(8, 2, bias=jnp.ones(3), **OWN),
            r"bias must be some of q, k, v, out, in a tuple, got Array",
        ),
        (lambda: MultiHeadAttention(8, 2, scale=-1.0, **OWN), "scale must be above 0, got scale=-1.0"),
        (lambda: Stack(3), "layers must be a sequence of modules, built, got 3"),
        (lambda: Conv(8, 8, 3, **OWN), "kernel_size must be a tuple, one length for each axis, got 3"),
        (lambda: Conv(8, 8, (3,), stride=0, **OWN), "stride must be at least 1, got stride=0"),
        (lambda: Stack([EncoderLayer(8, 2, 7, **OWN), 3]), "layers must be a module, built, got 3"),
        (lambda: require_cache({}, KVCache), "cache must be a KVCache, as init_cache makes it, got dict"),
    ],
)
def test_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_is_refused_when_it_is_called():
    x, ids, whole = jnp.ones((2, 5, 8)), jnp.ones((2, 5), int), jnp.ones((2, 5), int)
    attention = MultiHeadAttention(8, 2, positions=RotaryPositions(4), **OWN)
    latent = LatentAttention(8, 2, **LATENT)
    disentangled = DisentangledAttention(8, 2, 7, pos_att_type=(), **OWN)
    decoder, scanned = (Decoder(2, 8, 2, 7, scan=scan, **OWN) for scan in (False, True))
    embeddings = Embeddings(11, 8, 6, num_segments=0, **OWN)
    model = CausalLM(TextDecoder(embeddings, decoder), CausalLMHead(8, 11, **OWN))
    cache, of_all = decoder.init_cache(2, 8), scanned.init_cache(2, 8)
    full = model.init_cache(2, 8)._replace(length=jnp.array([1, 4]))
    causal = MultiHeadAttention(8, 2, is_causal=True, **OWN)
    delta, linear = GatedDeltaNet(8, 2, **OWN), LinearAttention(8, 2, is_causal=True, **OWN)
    first = causal.init_cache(2, 8)
    whole_numbers = jax.tree.map(lambda leaf: leaf.astype(int), first)
    for call, message in (
        (
            lambda: attention(x, positions=whole[:, :4]),
            r"positions must have shape \(2, 5\) or \(1, 5\), got",
        ),
        (lambda: latent(x, positions=whole[:, :4]), r"positions must have shape \(2, 5\) or \(1, 5\), got"),
        (lambda: disentangled(x, positions=whole[:, :4]), r"positions must have shape \(2, 5\) or \(1, 5\)"),
        (
            lambda: attention(x, x[:, :3], context_positions=whole[:, :4]),
            r"context_positions must have shape \(2, 3\) or \(1, 3\), got \(2, 4\)",
        ),
        (lambda: LayerNorm(8, **OWN)(x[..., :7]), r"x must have shape \(..., 8\), got \(2, 5, 7\)"),
        (lambda: decoder(x, cache=cache[:1]), "cache must be a tuple of one for each of 2 layers, got 1"),
        (lambda: decoder(x, cache=cache[0]), "cache must be a tuple .* got a DecoderCache"),
        (lambda: decoder(x, cache=of_all), "cache must be a tuple .* got a DecoderCache"),
        (lambda: scanned(x, cache=cache), "cache must be one with a leading axis of layers, .* got a tuple"),
        (
            lambda: Stack([EncoderLayer(8, 2, 7, **OWN)]).init_cache(2, 8),
            "layers must decode token by token: EncoderLayer has no init_cache",
        ),
        (
            lambda: scanned(x, cache=causal.init_cache(3, 8)),
            "cache must be one with a leading axis of layers, 2 long, .* KVCache",
        ),
        (lambda: causal.init_cache(2, 8, jnp.int32), "dtype must be a floating dtype, .* got int32"),
        (lambda: delta.init_cache(0), "batch must be at least 1, got batch=0"),
        (lambda: causal(x, cache=whole_numbers), "cache.key must be floating, got int32"),
        (lambda: delta(x, cache=first), "cache must be a DeltaNetCache, as init_cache makes it, got KVCache"),
        (lambda: linear(x, cache=first), "cache must be an array, as init_cache makes it, got KVCache"),
        (
            lambda: linear(x, cache=linear.init_cache(2).astype(int)),
            "cache must be floating, got int32",
        ),
        (
            lambda: model(ids[:, :3], cache=full),
            "the number of tokens must be at most max_positions=6, got 7",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
