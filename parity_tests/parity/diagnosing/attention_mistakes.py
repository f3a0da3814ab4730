"""Mistakes in attentions of other kinds, made in Flax itself: fixture, how, and the mutation that names each."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jax_attn.functional import buckets, linear_attention, random_features
from jax_attn.nn.attention import differential, gated_delta, linear, nystrom, relative
from jax_attn.nn.attention.differential import DifferentialAttention
from jax_attn.nn.attention.disentangled import DisentangledAttention
from jax_attn.nn.attention.gated_delta import GatedDeltaNet
from jax_attn.nn.attention.latent import LatentAttention
from jax_attn.nn.attention.linformer import LinformerAttention
from jax_attn.nn.attention.relative import RelativeAttention
from jax_attn.nn.layers import mixture_of_experts
from jax_attn.nn.positions.attention_positions import Places
from parity_tests.parity.diagnosing.test_part_mistakes import option

# Latent attention.


def no_latent_norm(patch, module):
    compressed = LatentAttention._compressed

    def without(self, x, at):
        rotary, _ = compressed(self, x, at)
        return rotary, self.kv_a_proj(x)[:, :, None, : self.kv_lora_rank]

    patch.setattr(LatentAttention, "_compressed", without)


def no_query_norm(patch, module):
    def queries(self, x, at):
        made = self._split_heads(self.q_b_proj(self.q_a_proj(x)), self.nope + self.rope)
        nope, rope = jnp.split(made, [self.nope], axis=-1)
        return nope, self.positions.rotate(rope, at)

    patch.setattr(LatentAttention, "_queries", queries)


def unturned_keys(patch, module):
    compressed = LatentAttention._compressed

    def without(self, x, at):
        _, latent = compressed(self, x, at)
        return self.kv_a_proj(x)[:, :, None, self.kv_lora_rank :], latent

    patch.setattr(LatentAttention, "_compressed", without)


def no_rotary_part(patch, module):
    queries = LatentAttention._queries

    def without(self, x, at):
        nope, turned = queries(self, x, at)
        return nope, jnp.zeros_like(turned)

    patch.setattr(LatentAttention, "_queries", without)


def rotary_part_first(patch, module):
    split = LatentAttention._split_heads

    def first(self, projected, width):
        made = split(self, projected, width)
        return jnp.roll(made, self.nope, axis=-1) if width == self.nope + self.rope else made

    patch.setattr(LatentAttention, "_split_heads", first)


def values_first(patch, module):
    plainly(patch)
    split = LatentAttention._split_heads

    def first(self, projected, width):
        made = split(self, projected, width)
        return jnp.roll(made, self.nope, axis=-1) if width == self.nope + self.v_head_dim else made

    patch.setattr(LatentAttention, "_split_heads", first)


def keys_of_all_heads_first(patch, module):
    plainly(patch)
    split = LatentAttention._split_heads

    def first(self, projected, width):
        if width != self.nope + self.v_head_dim:
            return split(self, projected, width)
        keys, values = jnp.split(projected, [self.num_heads * self.nope], axis=-1)
        return jnp.concatenate([split(self, keys, self.nope), split(self, values, self.v_head_dim)], axis=-1)

    patch.setattr(LatentAttention, "_split_heads", first)


def plainly(patch):
    patch.setattr(LatentAttention, "_absorbing_is_less", lambda *_: False)


# Differential attention.


def other_difference(patch, module, other):
    """`other(first, second, factor, initial)` for `first - factor * second`."""

    def difference(self, of_both, axis):
        q1, k1, q2, k2 = (x[...] for x in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2))
        factors = jnp.exp(jnp.sum(q1 * k1)), jnp.exp(jnp.sum(q2 * k2))
        return other(*jnp.split(of_both, 2, axis=axis), factors, self.lambda_init)

    patch.setattr(DifferentialAttention, "difference", difference)


def no_subnorm(patch, module):
    patch.setattr(differential, "rms_normalize", lambda x, eps: x)


def no_factor_of_heads(patch, module):
    norm, factor = differential.rms_normalize, 1 - module.lambda_init
    patch.setattr(differential, "rms_normalize", lambda x, eps: norm(x, eps) / factor)


def neighbours(patch, module, values):
    attention = DifferentialAttention._attention

    def paired(self, query, tokens, *rest):
        order = jnp.arange(self.num_heads).reshape(-1, 2).T.reshape(-1)
        tokens = tokens._replace(key=tokens.key[:, :, order])
        if values:
            tokens = tokens._replace(value=tokens.value[:, :, order])
        return attention(self, query[:, :, order], tokens, *rest)

    patch.setattr(DifferentialAttention, "_attention", paired)


# Attention of feature maps.


def feature_map(patch, module, other):
    patch.setattr(linear, "elu_features", other)


def no_normaliser(patch, module):
    patch.setattr(linear_attention, "_normalized", lambda read, value: read[..., :-1])


def normaliser_eps(patch, module):
    patch.setattr(
        linear_attention, "_normalized", lambda read, value: read[..., :-1] / (read[..., -1:] + 1e-6)
    )


def normaliser_of_all(patch, module):
    def attend(q, k, v, mask, cache, size):
        weights = jnp.einsum("btnf,bsnf->bnts", q, k)
        heads = jnp.einsum("bnts,bsnh->btnh", jnp.tril(weights), v)
        return heads / weights.sum(-1).swapaxes(1, 2)[..., None], None

    patch.setattr(linear, "chunked_linear_attention", attend)


def no_squares(patch, module):
    exponents = random_features._exponents
    patch.setattr(random_features, "_exponents", lambda x, features: (exponents(x, features)[0], 0.0))


def undivided_vectors(patch, module):
    exponents = random_features._exponents
    patch.setattr(
        random_features, "_exponents", lambda x, features: exponents(x * x.shape[-1] ** 0.25, features)
    )


# The gated delta rule.


def rule(patch, module, change=lambda *operands: operands, **options):
    """The rule token by token, with other operands or in another order."""

    def computed(query, key, value, log_decay, beta, memory, chunk_size):
        batch, tokens, heads, width = key.shape
        memory, outputs = jnp.zeros((batch, heads, width, value.shape[-1])), []
        query, key, value, log_decay, beta = change(query, key, value, log_decay, beta)
        for t in range(tokens):
            faded = memory * jnp.exp(log_decay[:, t])[..., None, None]
            asked = memory if options.get("asked_early") else faded
            known = 0 if options.get("uncorrected") else jnp.einsum("bnh,bnhv->bnv", key[:, t], asked)
            new = (value[:, t] - known) * beta[:, t][..., None]
            written = faded + key[:, t][..., None] * new[..., None, :]
            read = faded if options.get("read_early") else written
            outputs.append(jnp.einsum("bnh,bnhv->bnv", query[:, t], read))
            memory = written
        return jnp.stack(outputs, axis=1), memory

    patch.setattr(gated_delta, "chunked_gated_delta_rule", computed)


def no_decay(query, key, value, log_decay, beta):
    return query, key, value, jnp.zeros_like(log_decay), beta


def no_beta(query, key, value, log_decay, beta):
    return query, key, value, log_decay, jnp.ones_like(beta)


def unscaled_query(query, key, value, log_decay, beta):
    return query * query.shape[-1] ** 0.5, key, value, log_decay, beta


def running(patch):
    """The modules that are being called: what is compared is a copy."""
    call, modules = GatedDeltaNet.__call__, []

    def called(self, *args, **options):
        modules.append(self)
        return call(self, *args, **options)

    patch.setattr(GatedDeltaNet, "__call__", called)
    return modules


def rate_as_it_is(patch, module):
    modules = running(patch)

    def change(query, key, value, log_decay, beta):
        rate = modules[-1].A_log[...]
        return query, key, value, log_decay * rate * jnp.exp(-rate), beta

    rule(patch, module, change)


def no_bias_of_steps(patch, module):
    softplus, modules = jax.nn.softplus, running(patch)
    patch.setattr(jax.nn, "softplus", lambda x: softplus(x - modules[-1].dt_bias[...]))


def other_units(patch, module, other, which=(0, 1)):
    """`other(x)` for `x` by its length, of queries (0), keys (1), or both."""
    unit, calls = gated_delta._unit, []

    def changed(x):
        calls.append(x.shape)
        return other(x) if (len(calls) - 1) % 2 in which else unit(x)

    patch.setattr(gated_delta, "_unit", changed)


def centred(patch, module):
    conv = gated_delta._ShortConv.__call__

    def later(self, x, *given):
        y, last = conv(self, jnp.pad(x, ((0, 0), (0, 1), (0, 0))), *given)
        return y[:, 1:], last

    patch.setattr(gated_delta._ShortConv, "__call__", later)


# Relative attention.


def other_distances(patch, module, other):
    waves = relative.waves
    patch.setattr(relative, "waves", lambda distances, *rest: waves(other(distances), *rest))


def waves_in_turn(patch, module):
    waves = relative.waves

    def in_turn(*args):
        return jnp.stack(jnp.split(waves(*args), 2, axis=-1), axis=-1).reshape(-1, args[1])

    patch.setattr(relative, "waves", in_turn)


def other_content_bias(patch, module, other):
    attend = relative.attend

    def biased(self, query, *args, **options):
        return attend(self, query - self.content_bias[...] + other(self), *args, **options)

    patch.setattr(relative, "attend", biased)


def other_position_bias(patch, module, other):
    pairs = RelativeAttention._of_all_pairs
    patch.setattr(
        RelativeAttention,
        "_of_all_pairs",
        lambda self, query, past: pairs(self, query - self.position_bias[...] + other(self), past),
    )


def swapped_biases(patch, module):
    other_content_bias(patch, module, lambda self: self.position_bias[...])
    other_position_bias(patch, module, lambda self: self.content_bias[...])


def position_scores(patch, module, times):
    attend = relative.attend

    def scored(*args, bias, **options):
        return attend(*args, bias=bias * times, **options)

    patch.setattr(relative, "attend", scored)


# Disentangled attention.


def not_transposed(patch, module):
    def score_mod(self, query, key, relative, places: Places):
        c2p = self._products(query, self.pos_k_proj, relative)
        p2c = self._products(key, self.pos_q_proj, relative)

        def scored(score, b, h, q_idx, kv_idx):
            there, back = (
                self.rows(-places.distance(b, q_idx, kv_idx)),
                self.rows(places.distance(b, q_idx, kv_idx)),
            )
            return score + c2p[b, h, q_idx, there] + p2c[b, h, q_idx, back]

        return scored

    patch.setattr(DisentangledAttention, "_score_mod", score_mod)


def other_rows(patch, module, other):
    rows = DisentangledAttention.rows
    patch.setattr(DisentangledAttention, "rows", lambda self, distance: rows(self, other(distance)))


def rounded_down(patch, module):
    class Down:
        def __getattr__(self, name):
            return getattr(jnp, "floor" if name == "ceil" else name)

    patch.setattr(buckets, "np", Down())


# Nyström attention.


def other_segments(patch, module, other):
    """`other(x, kept, size)` for the means of segments, `x` `(b, t, n, h)` filled up and 0 where `kept` is."""
    means = nystrom.segment_means

    def changed(x, mask, size):
        batch, tokens = x.shape[:2]
        kept = jnp.ones((batch, tokens), bool) if mask is None else mask
        filled = jnp.pad(kept, ((0, 0), (0, -tokens % size)))[..., None, None]
        x = jnp.pad(jnp.where(kept[..., None, None], x, 0), ((0, 0), (0, -tokens % size), (0, 0), (0, 0)))
        return other(x, filled, size), means(x[:, :tokens], mask, size)[1]

    patch.setattr(nystrom, "segment_means", changed)


def segments_of(x, size):
    return x.reshape(x.shape[0], -1, size, *x.shape[2:])


def mean_of(x, kept):
    return x.sum(2) / jnp.maximum(kept.sum(2), 1)


def strided(x, kept, size):
    return mean_of(*(segments_of(y, y.shape[1] // size).swapaxes(1, 2) for y in (x, kept)))


def filled_before(x, kept, size):
    missing = -5 % size
    return mean_of(*(segments_of(jnp.roll(y, missing, 1), size) for y in (x, kept)))


def other_inverse(patch, module, other):
    iterated = nystrom.iterative_inverse
    patch.setattr(nystrom, "iterative_inverse", lambda matrix, n: other(iterated, matrix, n))


def newton(start, step):
    def other(iterated, matrix, n):
        inverse = start(matrix)
        for _ in range(n):
            inverse = step(matrix, inverse)
        return inverse

    return other


def usual_start(a):
    return a.mT / jnp.max(a.sum(-2), axis=-1)[..., None, None]


def usual_step(a, z):
    one, p = jnp.eye(a.shape[-1]), a @ z
    return z @ (13 * one - p @ (15 * one - p @ (7 * one - p))) / 4


def no_convolution(patch, module):
    attention = nystrom.NystromAttention._attention
    patch.setattr(
        nystrom.NystromAttention,
        "_attention",
        lambda self, conv, *args, **options: attention(self, None, *args, **options),
    )


# Others.


def swapped_lengths(patch, module):
    mixed = LinformerAttention._mixed

    def other(self, heads, lengths):
        return mixed(self, heads, self.value_lengths if lengths is self.key_lengths else self.key_lengths)

    patch.setattr(LinformerAttention, "_mixed", other)


def unweighted(patch, module):
    choose = mixture_of_experts.choose_experts

    def chosen(*args):
        weights, indices = choose(*args)
        return jnp.ones_like(weights), indices

    patch.setattr(mixture_of_experts, "choose_experts", chosen)


LATENT, DIFFERENTIAL = "attention-latent", "attention-differential"
LINEAR, PERFORMER = "attention-linear-causal", "attention-performer-causal"
DELTA, RELATIVE, DEBERTA = "gated-delta-net", "attention-relative", "attention-disentangled"
NYSTROM = "attention-nystrom"

MISTAKES = {
    "norm of the latent": (LATENT, no_latent_norm, "norm-missing"),
    "norm of the short query": (LATENT, no_query_norm, "norm-missing"),
    "scale of a part": (LATENT, partial(option, scale=13**-0.5), "scale-of-first"),
    "keys not turned": (LATENT, unturned_keys, "rotary-missing-keys"),
    "no rotary part": (LATENT, no_rotary_part, "scores-second-missing"),
    "rotary part first": (LATENT, rotary_part_first, "parts-reversed-first"),
    "values first": (LATENT, values_first, "parts-reversed-third"),
    "keys of all heads first": (LATENT, keys_of_all_heads_first, "parts-before-heads-second"),
    "second softmax added": (
        DIFFERENTIAL,
        partial(other_difference, other=lambda a, b, f, init: a + (f[0] - f[1] + init) * b),
        "second-softmax-added",
    ),
    "second softmax missing": (
        DIFFERENTIAL, partial(other_difference, other=lambda a, b, f, init: a), "second-softmax-missing"
    ),
    "second softmax whole": (
        DIFFERENTIAL, partial(other_difference, other=lambda a, b, f, init: a - b), "second-softmax-unweighted"
    ),
    "no initial lambda": (
        DIFFERENTIAL,
        partial(other_difference, other=lambda a, b, f, init: a - (f[0] - f[1]) * b),
        "lambda-init-missing",
    ),
    "lambdas swapped": (
        DIFFERENTIAL,
        partial(other_difference, other=lambda a, b, f, init: a - (f[1] - f[0] + init) * b),
        "parameters-swapped",
    ),
    "layers from 1": (
        DIFFERENTIAL, partial(option, lambda_init=0.8 - 0.6 * math.exp(-0.3 * 4)), "lambda-layer-one-on"
    ),
    "no norm of heads": (DIFFERENTIAL, no_subnorm, "plain-norm-missing"),
    "no factor of heads": (DIFFERENTIAL, no_factor_of_heads, "norm-unscaled"),
    "neighbours": (DIFFERENTIAL, partial(neighbours, values=True), "heads-paired-in-turn"),
    "neighbours of weights": (DIFFERENTIAL, partial(neighbours, values=False), "weights-paired-in-turn"),
    "no feature map": (LINEAR, partial(feature_map, other=lambda x: x), "features-missing"),
    "elu alone": (LINEAR, partial(feature_map, other=jax.nn.elu), "features-elu"),
    "ReLU": (LINEAR, partial(feature_map, other=jax.nn.relu), "features-relu"),
    "no normaliser": (LINEAR, no_normaliser, "normaliser-missing"),
    "normaliser with eps": (LINEAR, normaliser_eps, "normaliser-eps"),
    "normaliser of all keys": (LINEAR, normaliser_of_all, "normaliser-of-all"),
    "no squares": (PERFORMER, no_squares, "features-without-squares"),
    "no eps of features": (PERFORMER, partial(option, eps=0.0), "features-eps"),
    "vectors not divided": (PERFORMER, undivided_vectors, "vectors-undivided"),
    "weights not divided": (PERFORMER, no_normaliser, "normaliser-missing"),
    "no decay": (DELTA, partial(rule, change=no_decay), "fading-missing"),
    "no beta": (DELTA, partial(rule, change=no_beta), "gate-missing"),
    "unscaled queries": (DELTA, partial(rule, change=unscaled_query), "vectors-undivided"),
    "rate": (DELTA, rate_as_it_is, "decay-rate"),
    "bias of steps": (DELTA, no_bias_of_steps, "softplus-bias-missing"),
    "read early": (DELTA, partial(rule, read_early=True), "memory-read-early"),
    "uncorrected": (DELTA, partial(rule, uncorrected=True), "subtraction-missing"),
    "asked early": (DELTA, partial(rule, asked_early=True), "correction-early"),
    "keys of any length": (DELTA, partial(other_units, other=lambda x: x, which=(1,)), "second-unit-missing"),
    "queries of any length": (DELTA, partial(other_units, other=lambda x: x, which=(0,)), "first-unit-missing"),
    "both of any length": (DELTA, partial(other_units, other=lambda x: x), "unit-missing"),
    "lengths without eps": (
        DELTA, partial(other_units, other=lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)), "unit-eps"
    ),
    "convolution": (DELTA, centred, "convolution-centred"),
    "shift one on": (RELATIVE, partial(other_distances, other=lambda d: d - 1), "distance-one-on"),
    "shift one back": (RELATIVE, partial(other_distances, other=lambda d: d + 1), "distance-one-back"),
    "distances reversed": (RELATIVE, partial(other_distances, other=lambda d: -d), "distance-reversed"),
    "waves in turn": (RELATIVE, waves_in_turn, "waves-in-turn"),
    "no content bias": (
        RELATIVE, partial(other_content_bias, other=lambda self: 0.0), "query-bias-missing-first"
    ),
    "no position bias": (
        RELATIVE, partial(other_position_bias, other=lambda self: 0.0), "query-bias-missing-second"
    ),
    "biases swapped": (RELATIVE, swapped_biases, "parameters-swapped"),
    "positions not scaled": (RELATIVE, partial(position_scores, times=7**0.5), "scale-first-alone"),
    "no position scores": (RELATIVE, partial(position_scores, times=0.0), "scores-second-missing"),
    "c2p without p2c": (DEBERTA, partial(option, pos_att_type=("c2p",)), "scores-third-missing"),
    "p2c without c2p": (DEBERTA, partial(option, pos_att_type=("p2c",)), "scores-second-missing"),
    "scale without 3": (DEBERTA, partial(option, scale=13**-0.5), "scale-of-first"),
    "p2c not transposed": (DEBERTA, not_transposed, "scores-not-transposed"),
    "rows one back": (DEBERTA, partial(other_rows, other=lambda d: d + 1), "distance-one-back"),
    "rows reversed": (DEBERTA, partial(other_rows, other=lambda d: -d), "distance-reversed"),
    "buckets rounded down": ("attention-disentangled-buckets", rounded_down, "bucket-rounding"),
    "segments strided": (NYSTROM, partial(other_segments, other=strided), "landmarks-strided"),
    "segments filled before": (NYSTROM, partial(other_segments, other=filled_before), "landmarks-filled-before"),
    "segments rounded down": (
        NYSTROM,
        partial(other_segments, other=lambda x, kept, size: x[:, : x.shape[1] // size]),
        "landmarks-cut-off",
    ),
    "segments summed": (
        NYSTROM, partial(other_segments, other=lambda x, kept, size: segments_of(x, size).sum(2)),
        "landmarks-undivided",
    ),
    "segments by their length": (
        NYSTROM, partial(other_segments, other=lambda x, kept, size: segments_of(x, size).mean(2)),
        "landmarks-whole-length",
    ),
    "first tokens": (
        NYSTROM, partial(other_segments, other=lambda x, kept, size: x[:, ::size]), "landmarks-first"
    ),
    "one iteration less": (
        NYSTROM, partial(other_inverse, other=lambda iterated, a, n: iterated(a, n - 1)), "inverse-one-less"
    ),
    "one iteration more": (
        NYSTROM, partial(other_inverse, other=lambda iterated, a, n: iterated(a, n + 1)), "inverse-one-more"
    ),
    "exact inverse": (
        NYSTROM, partial(other_inverse, other=lambda iterated, a, n: jnp.linalg.pinv(a)), "inverse-exact"
    ),
    "second order": (
        NYSTROM,
        partial(other_inverse, other=newton(usual_start, lambda a, z: 2 * z - z @ a @ z)),
        "inverse-second-order",
    ),
    "unscaled start": (
        NYSTROM, partial(other_inverse, other=newton(lambda a: a.mT, usual_step)), "inverse-unscaled"
    ),
    "one start for all": (
        NYSTROM,
        partial(other_inverse, other=newton(lambda a: a.mT / jnp.max(a.sum(-2)), usual_step)),
        "inverse-scale-shared",
    ),
    "start not transposed": (
        NYSTROM, partial(other_inverse, other=newton(lambda a: usual_start(a).mT, usual_step)),
        "inverse-not-transposed",
    ),
    "inverse transposed": (
        NYSTROM, partial(other_inverse, other=lambda iterated, a, n: iterated(a, n).mT), "inverse-transposed"
    ),
    "no convolution": (NYSTROM, no_convolution, "value-convolution-missing"),
    "projections of lengths": ("attention-linformer", swapped_lengths, "parameters-swapped"),
    "experts unweighted": ("mixture-of-experts", unweighted, "router-unweighted"),
}  # fmt: skip
