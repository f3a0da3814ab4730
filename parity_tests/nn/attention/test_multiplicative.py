import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multiplicative import MultiplicativeAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestMultiplicativeAttention(TwinContract):
    rows = ("attention-general", "attention-dot")


@pytest.mark.parametrize("score", ["general", "dot"])
@jax.enable_x64(True)
def test_it_is_the_formula(score):
    module = MultiplicativeAttention(7, score=score, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    x, context = np.asarray(draw(3, 5, 7)), np.asarray(draw(3, 4, 7, seed=1))
    between = np.eye(7) if module.k_proj is None else np.asarray(module.k_proj.kernel[...]).T
    mask = jnp.arange(4) < jnp.array([[4], [2], [0]])

    @compiled
    def run(x, context):
        output, pull = jax.vjp(lambda x, context: module(x, context, mask), x, context)
        return module(x, context, mask, return_weights=True), *pull(jnp.ones_like(output))

    (output, weights), *gradients = run(x, context)
    for b, t in np.ndindex(2, 5):
        scores = np.exp([x[b, t] @ between @ h for h in context[b]]) * np.asarray(mask[b])
        assert_same(weights[b, t], scores / scores.sum())
        assert_same(output[b, t], scores / scores.sum() @ context[b])
    for nothing in (output[2], *(gradient[2] for gradient in gradients)):
        assert_same(nothing, jnp.zeros_like(nothing))
    assert_same(run(x, jnp.where(mask[..., None], context, jnp.nan))[0][0], output)


def test_bad_arguments_are_refused():
    for arguments, message in {
        (7, 5, "dot"): "score='dot' needs one width, got embed_dim=7 and context_dim=5",
        (
            7,
            7,
            "concat",
        ): r"score must be one of dot, general, got 'concat' \('concat' is AdditiveAttention\)",
        (7, 0): "context_dim must be at least 1, got context_dim=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            MultiplicativeAttention(*arguments, rngs=nnx.Rngs(0))
    module, x = MultiplicativeAttention(7, 5, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 7))
    for call, message in (
        ((x, x), r"context must have shape \(b, t, 5\), got \(3, 5, 7\)"),
        ((x, x[:2, :, :5]), "context must have the batch size of x, 3, got 2"),
        ((x, x[..., :5], jnp.ones((5,), bool)), r"mask must have shape \(3, 5\) or \(3, 5, 5\), got \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
