import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.linear_attention import (
    bidirectional_linear_attention,
    chunked_linear_attention,
    elu_features,
    linear_attention_weights,
    recurrent_linear_attention,
)
from jax_attn.nn.attention.linear import LinearAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_causal, assert_same, compiled, draw


class TestLinearAttention(TwinContract):
    rows = ("attention-linear-causal", "attention-linear")
    rounds = False
    elsewhere = ("attention-linear",)  # the formula below


def attention(**options) -> LinearAttention:
    return LinearAttention(26, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


def the_formula(query, key, value, mask, is_causal):
    """The quotient of the paper's equation 9, one query, key and head at a time."""
    phi = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))  # noqa: E731
    output = np.zeros((*query.shape[:3], value.shape[-1]))
    for b, t, n in np.ndindex(*query.shape[:3]):
        total = 0.0
        for s in range(t + 1 if is_causal else key.shape[1]):
            if mask[b, s]:
                weight = phi(query[b, t, n]) @ phi(key[b, s, n])
                output[b, t, n] += weight * value[b, s, n]
                total += weight
        output[b, t, n] /= total or 1.0
    return output


@pytest.mark.parametrize("is_causal", [True, False])
@jax.enable_x64(True)
def test_every_form_is_the_formula_and_has_its_gradients(is_causal):
    q, k, v = draw(3, 7, 2, 5), draw(3, 7, 2, 5, seed=1), draw(3, 7, 2, 11, seed=2)
    mask = jnp.array([[True] * 7, [False, False] + [True] * 5, [False] * 7])
    cotangent = draw(3, 7, 2, 11, seed=3)

    def by_weights(q, k, v):
        return jnp.einsum("bnts,bsnh->btnh", linear_attention_weights(q, k, mask, is_causal), v)

    forms = [by_weights]
    if is_causal:
        forms += [
            lambda q, k, v: recurrent_linear_attention(q, k, v, mask)[0],
            lambda q, k, v: chunked_linear_attention(q, k, v, mask, chunk_size=3)[0],
            lambda q, k, v: chunked_linear_attention(q, k, v, mask)[0],
        ]
    else:
        forms += [lambda q, k, v: bidirectional_linear_attention(q, k, v, mask)]

    @compiled
    def run(q, k, v):
        results = []
        for form in forms:
            of_form = lambda q, k, v, form=form: form(elu_features(q), elu_features(k), v)  # noqa: E731
            output, pull = jax.vjp(of_form, q, k, v)
            results.append((output, *pull(cotangent)))
        return results

    expected, *others = run(q, k, v)
    assert_same(expected[0], the_formula(*map(np.asarray, (q, k, v, mask)), is_causal))
    for result in others:
        for ours, theirs in zip(result, expected, strict=True):
            assert_same(ours, theirs)


@jax.enable_x64(True)
def test_decoding_gives_what_the_whole_text_gives():
    module, x = attention(is_causal=True, chunk_size=3), draw(3, 11, 26)
    mask = jnp.arange(11) >= jnp.array([[0], [4], [11]])  # padding on the left, and nothing else
    step = compiled(lambda x, mask, cache: module(x, mask=mask, cache=cache))
    whole = compiled(lambda x, mask: module(x, mask=mask))(x, mask)

    output, cache = step(
        x[:, :5], mask[:, :5], module.init_cache(3, dtype=jnp.float64)
    )  # a prompt, token by token
    outputs = [output]
    for t in range(5, 8):
        output, cache = step(x[:, t : t + 1], mask[:, t : t + 1], cache)
        outputs.append(output)
    output, cache = step(x[:, 8:], mask[:, 8:], cache)  # and several at a time
    assert_same(jnp.concatenate([*outputs, output], axis=1), whole)
    assert cache.dtype == jnp.float64
    assert cache.shape == module.init_cache(3).shape
    assert_same(compiled(module)(x[0, :5]), whole[0, :5])
    assert module.init_cache(1).dtype == jnp.float64
    assert module.init_cache(1, dtype=jnp.bfloat16).dtype == jnp.float32


@jax.enable_x64(True)
def test_weights_are_returned_and_give_the_output():
    module, x, context = attention(), draw(3, 5, 26), draw(3, 7, 26, seed=1)
    of_past = attention(is_causal=True)
    graphdef, state = nnx.split(of_past)
    mask = jnp.arange(7) < jnp.array([[7], [3], [0]])

    @compiled
    def run(x, context, mask):
        values = module.v_proj(context).reshape(3, 7, 2, 13)
        output, weights = module(x, context, mask, return_weights=True)
        heads = jnp.einsum("bnts,bsnh->btnh", weights, values).reshape(3, 5, 26)
        unbatched = module(x[1], context[1], mask[1], return_weights=True)[1]
        causal = of_past(x, return_weights=True)[1]
        _, captured = capture_attention_weights(nnx.merge(graphdef, state))(x)
        return output, module.out_proj(heads), module(x, context, mask), weights, unbatched, causal, captured

    output, from_weights, without, weights, unbatched, causal, captured = run(x, context, mask)
    assert_same(output, from_weights)
    assert_same(output, without)
    assert_same(output[2], jnp.broadcast_to(module.out_proj.bias[...], (5, 26)))
    assert_same(weights.sum(-1), jnp.broadcast_to(mask.any(-1)[:, None, None], (3, 2, 5)).astype(float))
    assert_same(unbatched, weights[1])
    assert_same(causal, jnp.tril(causal))
    assert_same(causal.sum(-1), jnp.ones((3, 2, 5)))
    assert_same(captured[""], causal)


@jax.enable_x64(True)
def test_causal_attention_sees_the_past_alone_and_padding_may_hold_anything():
    module, x = attention(), draw(3, 5, 26)
    assert_causal(attention(is_causal=True, chunk_size=2), x)
    mask = jnp.arange(5) < jnp.array([[5], [3], [1]])
    run = compiled(jax.value_and_grad(lambda x, mask: jnp.sum(module(x, mask=mask)[1, :3] ** 2)))
    assert_same(run(jnp.where(mask[..., None], x, 1e3), mask)[0], run(x, mask)[0])
    assert_same(run(x, jnp.zeros((3, 5), bool))[1], jnp.zeros_like(x))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="embed_dim must be divisible by num_heads"):
        LinearAttention(26, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got chunk_size=0"):
        LinearAttention(26, 2, chunk_size=0, rngs=nnx.Rngs(0))
    module, x = LinearAttention(26, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    causal = LinearAttention(26, 2, is_causal=True, rngs=nnx.Rngs(0))
    cache = causal.init_cache(3)
    with pytest.raises(ValueError, match="a cache is for attention with is_causal=True"):
        module.init_cache(3)
    for call, options, message in (
        ((x[..., :25],), {}, r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((x, x[:2]), {}, "context must have the batch size of x, 3, got 2"),
        ((x,), {"cache": cache}, "a cache is for attention with is_causal=True"),
        ((x, None, jnp.ones((3, 4), bool)), {}, r"mask must have shape \(3, 5\), got \(3, 4\)"),
        ((x, None, jnp.ones((3, 5))), {}, "mask must be a boolean array, True = attend, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call, **options)
    for call, options, message in (
        ((x, x), {}, "is_causal=True is for self-attention: context must be None"),
        ((x,), {"cache": cache[:2]}, r"cache must have shape \(3, 2, 13, 14\), got \(2, 2, 13, 14\)"),
        ((x,), {"cache": cache, "return_weights": True}, "return_weights needs every key"),
        ((x[0],), {"cache": cache}, "x must have a batch axis where there is a cache"),
    ):
        with pytest.raises(ValueError, match=message):
            causal(*call, **options)
