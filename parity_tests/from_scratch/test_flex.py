import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from jax_attn.catalogue.ladder import decay
from jax_attn.from_scratch.flex import MultiHeadAttentionFlex
from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from jax_attn.functional.score_mods import relative_bias
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)
from torch_ref.from_scratch import flex as torch_flex


class TestFlex(TwinContract):
    rows = ("flex", "flex-bias", "flex-score-mod")
    elsewhere = ("flex-bias",)  # the rungs are equal, with biases


def flex(num_heads: int = 2, **options) -> MultiHeadAttentionFlex:
    return MultiHeadAttentionFlex(7, 26, num_heads, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = flex(), draw(batch, tokens, 7)
    together = assert_batch_independent(module, x)
    values = compiled(lambda token: module.proj(module.qkv(token)[:, 52:]))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(flex(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_a_block_mask_says_what_is_causal_says():
    hinted = MultiHeadAttentionSDPA(7, 26, 2, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    for shape in ((5, 7), (3, 11, 7)):  # the same seed, the same weights
        assert_same(compiled(flex())(draw(*shape)), compiled(hinted)(draw(*shape)))


@jax.enable_x64(True)
def test_a_score_mod_is_the_constructor_s_or_the_call_s():
    x = draw(3, 5, 7)
    module, decaying = flex(), flex(score_mod=decay)
    plain, modified = compiled(module)(x), compiled(decaying)(x)
    assert np.abs(modified - plain).max() > 1e-3
    assert_same(compiled(lambda x: module(x, score_mod=decay))(x), modified)
    as_it_is = compiled(lambda x: decaying(x, score_mod=lambda score, b, h, q_idx, kv_idx: score))
    assert_same(as_it_is(x), plain)


@jax.enable_x64(True)
def test_a_score_mod_may_learn():
    module, x = flex(), draw(3, 5, 7)

    @jax.jit
    @jax.grad
    def gradient(table):
        return module(x, score_mod=relative_bias(table)).sum()

    table = draw(2, 9)  # from 4 tokens before to 4 after
    back = np.abs(np.asarray(gradient(table))) > 1e-9
    assert back.any(axis=1).all()
    assert back.sum() == 2 * 5  # the future has no share


@jax.enable_x64(True)
def test_dropout_is_for_training_and_knows_the_score_mod():
    x = draw(3, 5, 7)
    module = flex(dropout=0.5, score_mod=decay)
    run = nnx.jit(lambda module, x: module(x))
    first, second = run(module, x), run(module, x)
    assert np.abs(first - second).max() > 1e-3
    module.eval()
    evaluated = run(module, x)
    assert_same(evaluated, compiled(flex(score_mod=decay))(x))
    # so little is dropped that nothing is: the dense way and FlexAttention agree
    assert_same(run(flex(dropout=1e-300, score_mod=decay), x), evaluated)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "score_mod",
    [None, lambda score, b, h, q_idx, kv_idx: score * (b + 1) - 0.25 * (h + 1) * (q_idx - kv_idx)],
)
def test_the_twin_s_formula_is_torch_s_flex_attention(score_mod):
    torch.manual_seed(0)
    twin, x = (
        torch_flex.MultiHeadAttentionFlex(7, 26, 2, 11).double(),
        torch.randn(3, 5, 7, dtype=torch.float64),
    )
    block_mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 5, 5, device="cpu")
    with torch.no_grad():
        qkv = twin.qkv(x).unflatten(-1, (3, 2, 13)).transpose(-4, -2).unbind(-3)
        context = flex_attention(*qkv, score_mod=score_mod, block_mask=block_mask)
        expected = twin.proj(context.transpose(1, 2).flatten(2))
        assert_same(twin(x, score_mod), expected)


def test_torch_s_flex_attention_still_has_no_backward_pass_on_the_cpu():
    """When this fails, the twin can call `flex_attention` in place of writing the formula out."""
    q = torch.ones(1, 1, 2, 4, requires_grad=True)
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        flex_attention(q, q, q)


def test_a_bad_score_mod_is_refused():
    module = MultiHeadAttentionFlex(7, 26, 2, 11, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must map scalars to one"):
        module(jnp.ones((5, 7)), score_mod=lambda score, b, h, q_idx, kv_idx: jnp.stack([score, score]))
    with pytest.raises(ValueError, match=r"must map scalars to one .* calling it failed"):
        module(jnp.ones((5, 7)), score_mod=lambda score: score)


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionFlex(7, 26, 3, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionFlex(7, 26, 0, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttentionFlex(0, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionFlex(7, 26, 2, 0, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionFlex(7, 26, 2, 11, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionFlex(7, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(2, 3, 5, 7\)"):
        module(jnp.ones((2, 3, 5, 7)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
