import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.nystrom import iterative_inverse, segment_means
from jax_attn.nn.attention.nystrom import NystromAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.nn.attention.references import assert_equals_reference


class TestNystromAttention(TwinContract):
    rows = ("attention-nystrom", "attention-nystrom-exact")
    rounds = False


def attention(num_landmarks: int, conv_kernel_size: int | None = None) -> NystromAttention:
    return NystromAttention(26, 2, num_landmarks, conv_kernel_size, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@pytest.mark.parametrize(("num_landmarks", "conv_kernel_size"), [(3, 5), (12, None)])
@jax.enable_x64(True)
def test_it_is_nystromformers(num_landmarks, conv_kernel_size):
    from transformers.models.nystromformer.configuration_nystromformer import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerAttention

    config = NystromformerConfig(
        hidden_size=26,
        num_attention_heads=2,
        num_landmarks=num_landmarks,
        segment_means_seq_len=12,
        conv_kernel_size=conv_kernel_size or 1,
    )
    reference = NystromformerAttention(config).double().eval()
    reference.self.init_option = "exact"  # what the paper says; no configuration can ask for it
    if conv_kernel_size is None:
        reference.self.conv_kernel_size = None
        del reference.self.conv

    def carry(theirs):
        names = {
            "q_proj": "self.query",
            "k_proj": "self.key",
            "v_proj": "self.value",
            "out_proj": "output.dense",
        }
        weights = {
            f"{name}.{leaf}": theirs[f"{key}.{leaf}"]
            for name, key in names.items()
            for leaf in ("weight", "bias")
        }
        return weights | ({"conv.weight": theirs["self.conv.weight"]} if conv_kernel_size else {})

    assert_equals_reference(
        attention(num_landmarks, conv_kernel_size),
        reference,
        carry,
        draw(3, 12, 26),
        lambda theirs, x: theirs.output.dense(theirs.self(x)[0]),
    )


@jax.enable_x64(True)
def test_segments_and_the_inverse_are_what_they_say():
    x = np.asarray(draw(2, 7, 1, 3))
    mask = np.array([[True] * 7, [True, False, True, False, False, False, True]])
    means, marked = segment_means(jnp.asarray(x), jnp.asarray(mask), 3)
    for b, segment in np.ndindex(2, 3):
        here = [x[b, t] for t in range(3 * segment, min(7, 3 * segment + 3)) if mask[b, t]]
        assert bool(marked[b, segment]) == bool(here)
        assert_same(means[b, segment], np.mean(here, axis=0) if here else np.zeros((1, 3)))
    rows = jax.nn.softmax(draw(3, 5, 5) + 3 * jnp.eye(5))
    rows = (
        rows.at[2].multiply(jnp.diag(jnp.array([1.0, 1, 0, 1, 1]))).at[2, 2].set(0)
    )  # a landmark is missing
    assert_same(compiled(lambda rows: iterative_inverse(rows, 12))(rows), np.linalg.pinv(rows))


@jax.enable_x64(True)
def test_what_is_masked_is_not_seen_in_any_way():
    module, x = attention(4, 3), draw(3, 7, 26)
    mask = jnp.array([[True] * 7, [False] * 2 + [True] * 5, [False] * 7])

    @compiled
    def run(x, mask):
        output, weights = module(x, mask, return_weights=True)
        values = jnp.where(mask[..., None], module.v_proj(x), 0).reshape(3, 7, 2, 13)
        convolved = module.conv(values.swapaxes(2, 3)).swapaxes(2, 3)
        heads = jnp.einsum("bnts,bsnh->btnh", weights, values) + convolved
        gradient = jax.grad(lambda x: jnp.sum(module(x, mask)[2] ** 2))(x)
        return output, module.out_proj(heads.reshape(3, 7, 26)), weights, gradient

    output, from_weights, weights, gradient = run(x, mask)
    assert_same(output, from_weights)
    assert_same(weights, jnp.where(mask[:, None, None], weights, 0))
    assert_same(output[2], jnp.broadcast_to(module.out_proj.bias[...], (7, 26)))
    assert_same(gradient, jnp.zeros_like(x))
    # The first segment has nothing but padding: the others are as they are alone.
    assert_same(run(jnp.where(mask[..., None], x, 1e3), mask)[0][mask], output[mask])
    assert_same(compiled(attention(3, 3))(x[1, 2:]), output[1, 2:])


def test_bad_arguments_are_refused():
    for arguments, message in {
        (26, 3): "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3",
        (26, 2, 0): "num_landmarks must be at least 1, got num_landmarks=0",
        (26, 2, 3, 4): "conv_kernel_size must be odd and above 0, got 4",
        (26, 2, 3, -1): "conv_kernel_size must be at least 0, got conv_kernel_size=-1",
        (26, 2, 3, None, 0): "iterations must be at least 1, got iterations=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            NystromAttention(*arguments, rngs=nnx.Rngs(0))
    module, x = NystromAttention(26, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    for call, message in (
        ((x[..., :25],), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((x, jnp.ones((3, 4), bool)), r"mask must have shape \(3, 5\), got \(3, 4\)"),
        ((x, jnp.ones((3, 5))), "mask must be a boolean array, True = attend, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
