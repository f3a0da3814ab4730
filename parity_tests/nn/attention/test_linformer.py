import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.linformer import LinformerAttention
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestLinformerAttention(TwinContract):
    rows = ("attention-linformer", "attention-linformer-by-head", "attention-linformer-shared")
    rounds = False


def attention(sharing: str = "heads") -> LinformerAttention:
    return LinformerAttention(26, 2, 11, 3, sharing, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@pytest.mark.parametrize("sharing", ["none", "heads", "keys and values"])
@jax.enable_x64(True)
def test_it_is_the_formula(sharing):
    module, x, context = attention(sharing), draw(3, 5, 26), draw(3, 7, 26, seed=1)
    mask = jnp.arange(7) < jnp.array([[7], [4], [0]])

    @compiled
    def run(x, context, mask):
        output, weights = module(x, context, mask, return_weights=True)
        return output, weights, jax.grad(lambda context: jnp.sum(module(x, context, mask) ** 2))(context)

    output, weights, gradient = run(x, context, mask)
    output = np.array(output)
    of_keys = np.asarray(module.key_lengths[...])
    of_values = of_keys if sharing == "keys and values" else np.asarray(module.value_lengths[...])
    for b, n in np.ndindex(3, 2):
        q, k, v = (
            np.asarray(linear(inputs[b]))[:, 13 * n : 13 * (n + 1)]
            for linear, inputs in ((module.q_proj, x), (module.k_proj, context), (module.v_proj, context))
        )
        e, f = (each[n] if sharing == "none" else each for each in (of_keys, of_values))
        seen = np.asarray(mask[b])  # equation 7, over the keys that are there
        scores = np.exp(q @ (e[:7][seen].T @ k[seen]).T / np.sqrt(13))
        assert_same(weights[b, n], scores / scores.sum(-1, keepdims=True))
        head = weights[b, n] @ (f[:7][seen].T @ v[seen])
        output[b] -= head @ np.asarray(module.out_proj.kernel[...])[13 * n : 13 * (n + 1)]
    assert_same(output, jnp.broadcast_to(module.out_proj.bias[...], (3, 5, 26)))  # what all heads leave
    assert_same(gradient[2], jnp.zeros((7, 26)))
    # What is hidden may hold anything, and what comes after may be cut off.
    hidden = jnp.where(mask[..., None], context, 1e3)
    assert_same(run(x, hidden, mask)[1], weights)
    if sharing == "none":
        assert_same(
            compiled(lambda x, context: module(x, context, return_weights=True))(x[1], context[1, :4])[1],
            weights[1],
        )


@jax.enable_x64(True)
def test_it_is_the_linformer_package():
    """Its projections of the length are shared by the heads; fewer keys than it is made for."""
    from linformer import LinformerSelfAttention

    theirs = LinformerSelfAttention(26, 11, k=3, heads=2)
    theirs.to_out.bias = None
    ours = LinformerAttention(26, 2, 11, 3, bias=False, rngs=nnx.Rngs(0))
    names = [
        (r"([qkv])_proj", r"to_\1"),
        ("out_proj", "to_out"),
        ("key_lengths", "proj_k"),
        ("value_lengths", "proj_v"),
    ]
    x, context = np.asarray(draw(3, 5, 26)), np.asarray(draw(3, 7, 26, seed=1))
    assert_equals(ours, theirs, [Case("itself", (x,)), Case("a context", (x, context))], names=names)


def test_bad_arguments_are_refused():
    for arguments, message in {
        (26, 3, 11, 3): "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3",
        (26, 2, 0, 3): "max_length must be at least 1, got max_length=0",
        (26, 2, 11, 0): "projected_length must be at least 1, got projected_length=0",
        (26, 2, 11, 3, "layers"): "sharing must be one of 'none', 'heads', 'keys and values', got 'layers'",
    }.items():
        with pytest.raises(ValueError, match=message):
            LinformerAttention(*arguments, rngs=nnx.Rngs(0))
    module, x = LinformerAttention(26, 2, 5, 3, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    for call, message in (
        ((x[..., :25],), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((x, jnp.ones((3, 6, 26))), "the number of keys must be at most max_length=5, got 6"),
        ((x, x[:2]), "context must have the batch size of x, 3, got 2"),
        ((x, None, jnp.ones((3, 4), bool)), r"mask must have shape \(3, 5\), got \(3, 4\)"),
        ((x, None, jnp.ones((3, 5))), "mask must be a boolean array, True = attend, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
