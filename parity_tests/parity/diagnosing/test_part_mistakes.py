"""Mistakes in the parts that models are built from, made in Flax itself: each is caught, and named."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue.fixtures import FIXTURES
from jax_attn.functional import score_mods
from jax_attn.nn.attention import multi_head
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers import gated_feed_forward
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.positions.attention_positions import Places
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.primitives import RMSNorm
from parity_tests.parity.diagnosing.test_diagnose import why


def option(patch, module, **options):
    """Another option than torch's, set on the module or, as `a__b`, on a part of it."""
    for path, value in options.items():
        *parts, name = path.split("__")
        part = module
        for each in parts:
            part = getattr(part, each)
        setattr(part, name, value)


def norms_option(patch, module, **options):
    for _, part in nnx.iter_modules(module):
        if isinstance(part, RMSNorm):
            option(patch, part, **options)


def no_sinks(patch, module):
    compute = multi_head.compute
    patch.setattr(
        multi_head, "compute", lambda *args, sinks, **options: compute(*args, sinks=None, **options)
    )


def zero_sinks(patch, module):
    compute = multi_head.compute
    patch.setattr(
        multi_head,
        "compute",
        lambda *args, sinks, **options: compute(*args, sinks=jnp.zeros_like(sinks), **options),
    )


def no_gate(patch, module):
    patch.setattr(MultiHeadAttention, "_gated", lambda self, heads, x: heads)


def no_gate_of_shared(patch, module):
    sigmoid = jax.nn.sigmoid
    patch.setattr(jax.nn, "sigmoid", lambda x: jnp.ones_like(x) if x.shape[-1] == 1 else sigmoid(x))


def no_activated_half(patch, module):
    patch.setitem(gated_feed_forward.ACTIVATIONS, "gelu", jnp.ones_like)


def tiled_kv_heads(patch, module):
    """Query head i gets the key/value head i mod K, where it should be the i // (N / K)-th."""
    compute = multi_head.compute

    def tiled(self, query, key, value, *args, **options):
        order = jnp.arange(self.num_heads).reshape(-1, self.num_kv_heads).T.reshape(-1)
        heads, weights = compute(self, query[:, :, order], key, value, *args, **options)
        back = jnp.argsort(order)
        return heads[:, :, back], None if weights is None else weights[:, back]

    patch.setattr(multi_head, "compute", tiled)


def plain_slopes(patch, module):
    patch.setattr(score_mods, "alibi_slopes", lambda n: [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)])


def far_keys(patch, module, by=1):
    patch.setattr(Places, "of_key", lambda self, b, kv_idx: kv_idx + by)


def swapped_places(patch, module):
    patch.setattr(Places, "of_key", lambda self, b, kv_idx: -kv_idx)
    patch.setattr(Places, "of_query", lambda self, b, q_idx: -q_idx)


def cache_one_on(patch, module):
    def rotate(self, x, positions):
        return self(x, positions + (positions >= 3))  # three are in the cache at first

    patch.setattr(RotaryPositions, "rotate", rotate)


def no_layer_scale(patch, module):
    patch.setattr(LayerScale, "__call__", lambda self, x: x)


def qk_norm(patch, module, late):
    """The norms are there, and not called before queries and keys are turned, or not at all."""
    call, attend, held = MultiHeadAttention.__call__, MultiHeadAttention._attend, {}

    def without_norms(self, *args, **options):
        held.update(q_norm=self.q_norm, k_norm=self.k_norm)
        vars(self).update(q_norm=None, k_norm=None)
        try:
            return call(self, *args, **options)
        finally:
            vars(self).update(held)

    def normed(self, query, tokens, *args, **options):
        key = held["k_norm"](tokens.key)
        return attend(self, held["q_norm"](query), tokens._replace(key=key), *args, **options)

    patch.setattr(MultiHeadAttention, "__call__", without_norms)
    if late:
        patch.setattr(MultiHeadAttention, "_attend", normed)


# (what is wrong, fixture, how it is made so, the mutations that name it)
MISTAKES = {
    "rotary layout": ("attention-rotary-partial", partial(option, positions__interleaved=False), "rotary-layout"),
    "rotary base": ("attention-rotary-partial", partial(option, positions__base=1e4), "rotary-base-10000"),
    "rotary dimension": ("attention-rotary-partial", partial(option, positions__rotary_dim=6), "rotary-whole"),
    "longer window": ("attention-window", partial(option, window=4), "window-one-more"),
    "shorter window": ("attention-window", partial(option, window=2), "window-one-less"),
    "soft-cap": ("attention-softcap", partial(option, softcap=None), "softcap-missing"),
    "sinks": ("attention-sinks", no_sinks, "sinks-missing"),
    "sinks of zero": ("attention-sinks", zero_sinks, "sinks-zero"),
    "gate": ("attention-gated", no_gate, "gate-missing"),
    "gate of the shared expert": ("mixture-of-experts-shared", no_gate_of_shared, "gate-missing"),
    "gated layer": ("feed-forward-geglu", no_activated_half, "glu-missing"),
    "GELU of a gated layer": ("feed-forward-geglu", partial(option, activation="gelu_tanh"), "gelu-form"),
    "router before": ("mixture-of-experts", partial(option, softmax="before"), "router-softmax"),
    "router after": ("mixture-of-experts-shared", partial(option, softmax="after"), "router-softmax"),
    "scale": ("attention-grouped", partial(option, scale=1.0), "scale-missing"),
    "key/value heads": ("attention-grouped", tiled_kv_heads, "heads-shared"),
    "slopes": ("attention-alibi", plain_slopes, "alibi-slopes"),
    "bias of positions": ("attention-alibi", partial(option, positions=None), "score-bias-missing"),
    "buckets one on": ("positions-t5", far_keys, "distance-one-on"),
    "buckets one back": ("positions-t5", partial(far_keys, by=-1), "distance-one-back"),
    "buckets reversed": ("positions-t5", swapped_places, "distance-reversed"),
    "buckets one way": ("positions-t5", partial(option, bidirectional=False), "bidirectional"),
    "cache": ("cached attention", cache_one_on, "cache-position"),
    "no QK-norm": ("attention-rotary", partial(qk_norm, late=False), "qk-norm-missing"),
    "late QK-norm": ("attention-rotary", partial(qk_norm, late=True), "qk-norm-late"),
    "1 + weight": ("encoder-layer-sandwich", partial(norms_option, unit_offset=False), "norm-offset-missing"),
    "norms of branches": ("encoder-layer-sandwich", partial(option, norm_placement="pre"), "branch-norm-missing"),
    "layer scale": ("encoder-layer-scaled", no_layer_scale, "layer-scale-missing"),
    "weighted skip": ("encoder-layer-deepnorm", partial(option, residual_scale=1.0), "skip-unweighted"),
}  # fmt: skip


def diagnosed(fixture, make, expected, patch):
    """The diagnosis, and whether it names the mistake."""
    flax, torch = FIXTURES[fixture].flax(), FIXTURES[fixture].torch()
    make(patch, flax)
    case = FIXTURES[fixture].cases()[0]
    diagnosis = why(flax, torch, *case.args, kwargs=case.kwargs)
    cause = diagnosis.cause
    names = {(c.setting, c.flax) for c in diagnosis.likely if expected in (c.mutation, c.setting)}
    return diagnosis, cause is not None and (cause.setting, cause.flax) in names


# Each takes seconds: some here, and all of them among the slow tests.
FEW = "buckets one on", "GELU of a gated layer", "gated layer"


@pytest.mark.parametrize(
    "mistakes", [FEW, pytest.param(MISTAKES, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_mistake_in_a_part_is_caught_and_named(mistakes, monkeypatch):
    assert_named({mistake: MISTAKES[mistake] for mistake in mistakes}, monkeypatch)


def assert_named(mistakes, monkeypatch):
    """Each is caught, nine in ten are named, and none is certain to be another."""
    unnamed = {}
    for mistake, made in mistakes.items():
        with monkeypatch.context() as patch:
            diagnosis, named = diagnosed(*made, patch)
        assert diagnosis.divergence is not None, mistake
        assert named or diagnosis.certainty != "certain", (mistake, str(diagnosis))
        if not named:
            unnamed[mistake] = str(diagnosis)
    print(f"{len(mistakes) - len(unnamed)} of {len(mistakes)} mistakes are named; not: {', '.join(unnamed)}")
    assert len(unnamed) <= len(mistakes) // 10, unnamed
