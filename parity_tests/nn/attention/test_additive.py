import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.additive import AdditiveAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestAdditiveAttention(TwinContract):
    rows = ("attention-additive", "attention-additive-bias")


def attention() -> AdditiveAttention:
    return AdditiveAttention(11, 7, 13, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@jax.enable_x64(True)
def test_it_is_the_formula_and_luongs_concat():
    module, x, context = attention(), np.asarray(draw(3, 5, 11)), np.asarray(draw(3, 4, 7, seed=1))
    query, key, score = (
        np.asarray(linear.kernel[...]).T for linear in (module.q_proj, module.k_proj, module.score_proj)
    )
    concat = np.concatenate([query, key], axis=1)
    output, weights = compiled(lambda x, context: module(x, context, return_weights=True))(x, context)
    for b, t in np.ndindex(3, 5):
        energy = np.array([score[0] @ np.tanh(query @ x[b, t] + key @ h) for h in context[b]])
        luong = [score[0] @ np.tanh(concat @ np.concatenate([x[b, t], h])) for h in context[b]]
        assert_same(energy, luong)
        expected = np.exp(energy) / np.exp(energy).sum()
        assert_same(weights[b, t], expected)
        assert_same(output[b, t], expected @ context[b])


@jax.enable_x64(True)
def test_masks_decide_and_what_they_hide_may_hold_anything():
    module, x, context = attention(), draw(3, 5, 11), draw(3, 4, 7, seed=1)
    keys = jnp.arange(4) < jnp.array([[4], [2], [0]])

    @compiled
    def run(x, context, mask):
        output, pull = jax.vjp(lambda x, context: module(x, context, mask), x, context)
        return output, *pull(jnp.ones_like(output))

    output, *gradients = run(x, context, keys)
    assert_same(run(x, context, jnp.broadcast_to(keys[:, None], (3, 5, 4)))[0], output)
    assert_same(run(x, jnp.where(keys[..., None], context, jnp.nan), keys)[0], output)
    assert_same(compiled(module)(x[1], context[1, :2]), output[1])
    assert_same(output[2], jnp.zeros((5, 7)))
    for gradient in gradients:
        assert_same(gradient[2], jnp.zeros_like(gradient[2]))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="hidden_dim must be at least 1, got hidden_dim=0"):
        AdditiveAttention(11, hidden_dim=0, rngs=nnx.Rngs(0))
    module, x, context = AdditiveAttention(11, 7, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 11)), jnp.ones((3, 4, 7))
    for call, message in (
        ((x[..., :10], context), r"x must have shape \(t, 11\) or \(b, t, 11\), got \(3, 5, 10\)"),
        ((x, x), r"context must have shape \(b, t, 7\), got \(3, 5, 11\)"),
        ((x, context[:2]), "context must have the batch size of x, 3, got 2"),
        ((x, context[0]), r"context must have shape \(b, t, 7\), got \(4, 7\)"),
        ((x, context, jnp.ones((3, 5), bool)), r"mask must have shape \(3, 4\) or \(3, 5, 4\), got \(3, 5\)"),
        ((x, context, jnp.ones((3, 4))), "mask must be a boolean array, True = attend, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
