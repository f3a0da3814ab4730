"""Which program each platform gets, told from what is exported for it; none of them is needed here."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.flex import flex_attention

BATCH, TOKENS, HEADS, KV_HEADS = 1, 2048, 4, 2
MOSAIC, CUDNN = "tpu_custom_call", "__cudnn"
SEGMENTS = jnp.arange(TOKENS)[None] // 700
CAUSAL = create_block_mask(mask_mods.causal, None, None, TOKENS, TOKENS)

CALLS = {
    "causal": lambda q, k, v: dot_product_attention(q, k, v, is_causal=True),
    "window": lambda q, k, v: dot_product_attention(q, k, v, is_causal=True, local_window_size=(500, 0)),
    "softcap, with log-sum-exp": lambda q, k, v: dot_product_attention(
        q, k, v, is_causal=True, softcap=30.0, return_residual=True
    ),
    "lengths and segments": lambda q, k, v: dot_product_attention(
        q, k, v, segment_ids=SEGMENTS, key_value_seq_lengths=jnp.array([1999])
    ),
    "flex": lambda q, k, v: flex_attention(q, k, v, None, CAUSAL, enable_gqa=True),
    "flex with a mod": lambda q, k, v: flex_attention(
        q, k, v, score_mods.alibi(jnp.ones(HEADS)), CAUSAL, enable_gqa=True
    ),
}


def operands(width=128, dtype=jnp.bfloat16):
    return [jax.ShapeDtypeStruct((BATCH, TOKENS, n, width), dtype) for n in (HEADS, KV_HEADS, KV_HEADS)]


def both_passes(attend):
    def run(*qkv):
        results, pull_back = jax.vjp(attend, *qkv)
        return results, pull_back(results)

    return run


def exported(f, platforms, given) -> str:
    checks = [export.DisabledSafetyCheck.custom_call(MOSAIC)]
    return export.export(jax.jit(f), platforms=platforms, disabled_checks=checks)(*given).mlir_module()


REPEATED = ("window", "flex")  # beside "causal" and "flex with a mod"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in REPEATED)) for name in CALLS]
)
def test_a_tpu_gets_the_kernels(name):
    """Forward, dq, dk and dv: the forward pass is not computed twice."""
    assert exported(both_passes(CALLS[name]), ["tpu"], operands()).count(MOSAIC) == 3


def test_narrow_heads_and_a_forward_pass_alone_get_them_too():
    assert exported(both_passes(CALLS["causal"]), ["tpu"], operands(64)).count(MOSAIC) == 3
    assert exported(CALLS["causal"], ["tpu"], operands(64)).count(MOSAIC) == 1


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (operands(dtype=jnp.float16), {}),
        (operands(640), {}),
        (operands(), {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}),
    ],
)
def test_what_they_cannot_serve_is_computed_without(given, options):
    def attend(q, k, v):
        return dot_product_attention(q, k, v, is_causal=True, **options)

    assert MOSAIC not in exported(both_passes(attend), ["tpu"], given)
    with pytest.raises(ValueError, match="implementation='pallas' cannot serve this call"):
        exported(
            lambda q, k, v: dot_product_attention(q, k, v, implementation="pallas", **options), ["tpu"], given
        )


@pytest.mark.parametrize(
    "platforms",
    [
        ["cuda"],
        *(pytest.param(given, marks=pytest.mark.slow) for given in (["rocm"], ["cpu", "cuda", "tpu"])),
    ],
)
def test_without_cudnn_and_for_several_platforms(platforms):
    for attend in (CALLS["causal"], CALLS["flex"]):
        text = exported(both_passes(attend), platforms, operands())
        assert (MOSAIC in text) == ("tpu" in platforms)
        assert CUDNN not in text


def test_a_kernel_by_name_where_it_does_not_run():
    x = jnp.ones((1, 5, 1, 8))
    for name in ("pallas", "cudnn"):
        with pytest.raises(ValueError, match="not on cpu"):
            dot_product_attention(x, x, x, implementation=name)
    with pytest.raises(ValueError, match="'cudnn' cannot serve this call: it takes bfloat16"):
        exported(
            lambda q, k, v: dot_product_attention(q, k, v, implementation="cudnn"),
            ["cuda"],
            operands(dtype=jnp.float32),
        )
