import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.delta_rule import chunked_gated_delta_rule, recurrent_gated_delta_rule
from jax_attn.nn.attention.gated_delta import GatedDeltaNet
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_causal, assert_same, compiled, draw
from parity_tests.nn.attention.references import assert_equals_reference


class TestGatedDeltaNet(TwinContract):
    rows = ("gated-delta-net",)
    rounds = False


SIZES = dict(num_heads=6, num_qk_heads=2, head_dim=5, value_head_dim=7, conv_size=3)


def delta_net(**options) -> GatedDeltaNet:
    return GatedDeltaNet(13, **SIZES, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@jax.enable_x64(True)
def test_both_forms_are_the_rule_and_have_its_gradients():
    q, k, v = draw(2, 7, 3, 5), draw(2, 7, 3, 5, seed=1), draw(2, 7, 3, 11, seed=2)
    g, beta = -jnp.exp(draw(2, 7, 3, seed=3)), jax.nn.sigmoid(draw(2, 7, 3, seed=4))
    memory, cotangents = draw(2, 3, 5, 11, seed=5), (draw(2, 7, 3, 11, seed=6), draw(2, 3, 5, 11, seed=7))
    operands = q, k, v, g, beta, memory

    @compiled
    def run(*operands):
        results = []
        for form in (
            recurrent_gated_delta_rule,
            lambda *operands: chunked_gated_delta_rule(*operands, chunk_size=3),
            chunked_gated_delta_rule,
        ):
            output, pull = jax.vjp(form, *operands)
            results.append((*output, *pull(cotangents)))
        return results

    expected, *others = run(*operands)
    for result in others:
        for ours, theirs in zip(result, expected, strict=True):
            assert_same(ours, theirs)

    # The rule in the paper's form, equation 10: S (a (I - b k kᵀ)) + b v kᵀ, with S from keys' rows to values.
    b, n = 1, 2
    state = np.asarray(memory[b, n]).T
    for t in range(7):
        key, rate = np.asarray(k[b, t, n]), np.asarray(beta[b, t, n])
        state = np.exp(g[b, t, n]) * state @ (np.eye(5) - rate * np.outer(key, key))
        state = state + rate * np.outer(v[b, t, n], key)
        assert_same(expected[0][b, t, n], state @ np.asarray(q[b, t, n]))
    assert_same(expected[1][b, n], state.T)


@pytest.mark.parametrize("chunk_size", [2, 64])
@jax.enable_x64(True)
def test_it_is_qwen3_nexts(chunk_size):
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=13,
        linear_num_value_heads=6,
        linear_num_key_heads=2,
        linear_key_head_dim=5,
        linear_value_head_dim=7,
        linear_conv_kernel_dim=3,
        rms_norm_eps=1e-6,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    reference = Qwen3NextGatedDeltaNet(config, 0).double().eval()

    def carry(theirs):
        # Theirs are fused head by head: a key head's query and key, then its three values and gates.
        fused = theirs["in_proj_qkvz.weight"].reshape(2, -1, 13).split([5, 5, 21, 21], dim=1)
        beta, decay = theirs["in_proj_ba.weight"].reshape(2, -1, 13).split([3, 3], dim=1)
        parts = dict(zip(("q_proj", "k_proj", "v_proj", "gate_proj"), fused, strict=True))
        parts |= {"beta_proj": beta, "decay_proj": decay}
        same = ("A_log", "dt_bias", "norm.weight", "out_proj.weight")
        return {
            **{f"{name}.weight": part.reshape(-1, 13) for name, part in parts.items()},
            **{name: theirs[name] for name in same},
            "conv.weight": theirs["conv1d.weight"],
        }

    mask = np.ones((3, 7), bool)
    mask[1, :3] = mask[2, 5:] = False
    module = delta_net(chunk_size=chunk_size)
    assert_equals_reference(
        module,
        reference,
        carry,
        draw(3, 7, 13),
        lambda theirs, x: theirs(x, attention_mask=x.new_tensor(mask)),
        mask=jnp.asarray(mask),
    )


@jax.enable_x64(True)
def test_decoding_gives_what_the_whole_text_gives():
    module, x = delta_net(chunk_size=3), draw(3, 11, 13)
    mask = jnp.arange(11) >= jnp.array([[0], [4], [11]])  # padding on the left, and nothing else
    step = compiled(lambda x, mask, cache: module(x, mask, cache=cache))
    whole = compiled(module)(x, mask)

    output, cache = step(
        x[:, :5], mask[:, :5], module.init_cache(3, dtype=jnp.float64)
    )  # a prompt, then by token
    outputs = [output]
    for t in range(5, 8):
        output, cache = step(x[:, t : t + 1], mask[:, t : t + 1], cache)
        outputs.append(output)
    output, cache = step(x[:, 8:], mask[:, 8:], cache)  # and several at a time
    output = jnp.concatenate([*outputs, output], axis=1)
    assert_same(output, whole)
    assert_same(output[2], jnp.zeros((11, 13)))
    assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, module.init_cache(3))

    alone = compiled(module)
    assert_same(alone(x[1, 4:]), whole[1, 4:])  # padding on the left is as if it was not there
    assert {part.dtype for part in module.init_cache(1)} == {jnp.dtype(jnp.float64)}
    assert module.init_cache(1, dtype=jnp.bfloat16).inputs.dtype == jnp.bfloat16
    assert module.init_cache(1, dtype=jnp.bfloat16).memory.dtype == jnp.float32


@jax.enable_x64(True)
def test_padding_anywhere_leaves_a_text_as_it_is_alone():
    """On the right, in the middle of a chunk, and a row that takes no part in some steps."""
    module, x = delta_net(chunk_size=3), draw(4, 8, 13)
    real = jnp.array(
        [
            [0, 1, 1, 0, 0, 1, 0, 1],
            [1, 1, 0, 0, 1, 0, 0, 1],
            [0, 0, 0, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 0, 0, 0, 0],
        ],
        bool,
    )

    @compiled
    def both(x):
        first, cache = module(x[:, :7], real[:, :7], cache=module.init_cache(4))
        last, cache = module(x[:, 7:], real[:, 7:], cache=cache)
        alone = module(x[real].reshape(4, 4, 13), cache=module.init_cache(4))
        return jnp.concatenate([first, last], axis=1), cache, alone

    output, cache, (alone, after) = both(x)
    assert_same(output[real], alone.reshape(16, 13))
    assert not output[~real].any()
    jax.tree.map(assert_same, cache, after)


@jax.enable_x64(True)
def test_the_past_alone_is_seen_and_padding_gives_no_gradient():
    module, x = delta_net(chunk_size=2), draw(3, 6, 13)
    assert_causal(module, x)
    gradient = compiled(jax.grad(lambda x: jnp.sum(module(x, jnp.zeros((3, 6), bool)))))(x)
    assert_same(gradient, jnp.zeros_like(x))


def test_a_new_module_keeps_its_memory_as_mamba_2_does():
    module = GatedDeltaNet(13, 1009, head_dim=2, rngs=nnx.Rngs(0))
    rate, time = jnp.exp(module.A_log[...]), jax.nn.softplus(module.dt_bias[...])
    assert 1 <= rate.min() < 1.1
    assert 15.8 < rate.max() <= 16.01
    assert 0.00099 < time.min() < 0.0011
    assert 0.09 < time.max() < 0.1001


def test_bad_arguments_are_refused():
    for options, message in (
        ({"num_heads": 6}, "embed_dim must be divisible by num_heads, got embed_dim=13 and num_heads=6"),
        ({"num_heads": 6, "head_dim": 5, "num_qk_heads": 4}, "num_heads must be divisible by num_qk_heads"),
        ({"num_heads": 1, "head_dim": 0}, "head_dim must be at least 1, got head_dim=0"),
        ({"num_heads": 1, "conv_size": 0}, "conv_size must be at least 1, got conv_size=0"),
        ({"num_heads": 1, "chunk_size": 0}, "chunk_size must be at least 1, got chunk_size=0"),
        ({"num_heads": 1, "value_head_dim": 0}, "value_head_dim must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            GatedDeltaNet(13, **options, rngs=nnx.Rngs(0))
    module, x = GatedDeltaNet(13, 1, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 13))
    cache = module.init_cache(3)
    for call, options, message in (
        ((x[..., :12],), {}, r"x must have shape \(t, 13\) or \(b, t, 13\), got \(3, 5, 12\)"),
        ((x, jnp.ones((3, 4), bool)), {}, r"mask must have shape \(3, 5\), got \(3, 4\)"),
        ((x, jnp.ones((3, 5))), {}, "mask must be a boolean array, True = attend, got float32"),
        ((x[0],), {"cache": cache}, "x must have a batch axis where there is a cache"),
        ((x[:2],), {"cache": cache}, r"cache.inputs must have shape \(2, 3, 39\), got \(3, 3, 39\)"),
        (
            (x,),
            {"cache": cache._replace(memory=cache.memory[..., :5])},
            r"cache.memory must have shape \(3, 1, 13, 13\), got \(3, 1, 13, 5\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call, **options)
