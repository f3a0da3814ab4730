import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.pooling import AttentionPooling
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.nn.attention.references import assert_equals_reference


class TestAttentionPooling(TwinContract):
    rows = ("attention-pooling", "attention-pooling-set")


def pooling(**options) -> AttentionPooling:
    return AttentionPooling(26, 2, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@jax.enable_x64(True)
def test_it_is_siglips():
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    config = SiglipVisionConfig(hidden_size=26, num_attention_heads=2, intermediate_size=5)
    reference = SiglipMultiheadAttentionPoolingHead(config).double().eval()

    def carry(theirs):
        parts = {
            f"{name}.{leaf}": part
            for leaf in ("weight", "bias")
            for name, part in zip(
                ("q_proj", "k_proj", "v_proj"), theirs[f"attention.in_proj_{leaf}"].chunk(3), strict=True
            )
        }
        out = {f"out_proj.{leaf}": theirs[f"attention.out_proj.{leaf}"] for leaf in ("weight", "bias")}
        return {"queries": theirs["probe"][0], **parts, **out}

    def attention_of(head, x):  # its norm and its feed-forward come after
        return head.attention(head.probe.repeat(3, 1, 1), x, x)[0]

    assert_equals_reference(pooling(), reference, carry, draw(3, 7, 26), attention_of)


@jax.enable_x64(True)
def test_pooling_by_attention_of_the_set_transformer():
    module, x = pooling(num_queries=3, residual=True), draw(3, 7, 26)
    seeds = np.asarray(module.queries[...])
    projected = {
        name: np.asarray(linear.kernel[...]) for name, linear in vars(module).items() if name.endswith("proj")
    }
    biases = {name: np.asarray(getattr(module, name).bias[...]) for name in projected}
    q = (seeds @ projected["q_proj"] + biases["q_proj"]).reshape(3, 2, 13)
    output, weights = compiled(lambda x: module(x, return_weights=True))(x)
    for b in range(3):
        k, v = (
            (np.asarray(x[b]) @ projected[name] + biases[name]).reshape(7, 2, 13)
            for name in ("k_proj", "v_proj")
        )
        scores = np.exp(np.einsum("tnh,snh->nts", q, k) / np.sqrt(13))
        expected = scores / scores.sum(-1, keepdims=True)
        assert_same(weights[b], expected)
        heads = np.einsum("nts,snh->tnh", expected, v).reshape(3, 26)
        # H of the paper's multihead attention block, before its norm
        assert_same(output[b], seeds + heads @ projected["out_proj"] + biases["out_proj"])


@jax.enable_x64(True)
def test_order_is_not_seen_and_padding_may_hold_anything():
    module, x = pooling(num_queries=3), draw(3, 5, 26)
    mask = jnp.arange(5) < jnp.array([[5], [3], [0]])

    @compiled
    def run(x, mask):
        output, pull = jax.vjp(lambda x: module(x, mask), x)
        return output, pull(jnp.ones_like(output))[0]

    output, gradient = run(x, mask)
    assert_same(run(x[:, ::-1], mask[:, ::-1])[0], output)
    assert_same(run(jnp.where(mask[..., None], x, jnp.nan), mask)[0], output)
    assert_same(compiled(module)(x[1, :3]), output[1])
    assert_same(output[2], jnp.broadcast_to(module.out_proj.bias[...], (3, 26)))
    assert_same(gradient[2], jnp.zeros((5, 26)))


def test_bad_arguments_are_refused():
    for arguments, message in {
        (26, 3): "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3",
        (26, 2, 0): "num_queries must be at least 1, got num_queries=0",
        (26, 2, 1, 1.5): "dropout must be a probability between 0 and 1, got dropout=1.5",
    }.items():
        with pytest.raises(ValueError, match=message):
            AttentionPooling(*arguments, rngs=nnx.Rngs(0))
    module, x = AttentionPooling(26, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    for call, message in (
        ((x[..., :25],), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((x, jnp.ones((3, 5, 5), bool)), r"mask must have shape \(3, 5\), got \(3, 5, 5\)"),
        ((x, jnp.ones((3, 5))), "mask must be a boolean array, True = attend, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
