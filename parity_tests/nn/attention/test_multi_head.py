import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.attention import MULTI_HEAD
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions import AlibiPositions, RotaryPositions, ShawPositions
from jax_attn.parity.cases import Case
from jax_attn.weights.state_dict import load_state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_mask_decides,
    assert_nothing_to_attend_to_gives,
    assert_permutation_equivariant,
    assert_same,
    batches,
    compiled,
    draw,
    few,
    lengths,
)
from parity_tests.references import assert_equals


class TestMultiHeadAttention(TwinContract):
    rows = tuple(name for name, twin in CATALOGUE.items() if twin.where == MULTI_HEAD)
    elsewhere = tuple(
        f"attention-{term}"
        for term in ("alibi", "masked", "qk-layer-norm", "qk-norm", "rotary", "sinks", "softcap", "window")
    )  # the definition, in test_pairwise.py


def attention(num_kv_heads: int | None = None, **options) -> MultiHeadAttention:
    return MultiHeadAttention(26, 2, num_kv_heads, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


def masked(module: MultiHeadAttention):
    return lambda x, mask=None: module(x, mask=mask)


@few
@given(batches, lengths)
@jax.enable_x64(True)
def test_neither_order_nor_company_matters(batch, tokens):
    module, x = attention(), draw(batch, tokens, 26)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


@jax.enable_x64(True)
def test_the_mask_decides():
    assert_mask_decides(masked(attention()), draw(3, 5, 26))


@jax.enable_x64(True)
def test_where_nothing_may_be_attended_to_only_the_bias_is_left():
    module = attention()
    assert_nothing_to_attend_to_gives(masked(module), draw(3, 5, 26), module.out_proj.bias[...])


@jax.enable_x64(True)
def test_every_form_of_a_mask_says_the_same():
    module, x, context = attention(), draw(3, 5, 26), draw(3, 7, 26, seed=1)
    keys = jnp.arange(7) < jnp.array([[7], [3], [1]])

    @compiled
    def outputs(keys):
        pairs = keys[:, None]
        forms = keys, pairs, pairs[:, None], jnp.broadcast_to(pairs[:, None], (3, 2, 5, 7))
        shared = keys[1:2], jnp.broadcast_to(keys[1:2], (3, 7))
        given = [[module(x, context, mask) for mask in masks] for masks in (forms, shared)]
        return *given, module(x[1], context[1], keys[1])

    (output, *others), (one, same), alone = outputs(keys)
    for other in others:
        assert_same(other, output)
    assert_same(one, same)
    assert_same(alone, output[1])


@jax.enable_x64(True)
def test_each_head_may_have_a_mask_of_its_own():
    module, x = attention(bias=False), draw(3, 5, 26)
    of_one, of_both = jnp.ones((1, 2, 1, 1), bool).at[0, 1].set(False), jnp.zeros((1, 1, 1, 1), bool)
    run = compiled(lambda *masks: [module(x), *(module(x, mask=mask) for mask in masks)])
    whole, one, other, nothing = run(of_one, ~of_one, of_both)
    assert_same(one + other, whole)  # the output is a sum over heads
    assert_same(nothing, jnp.zeros_like(x))


@jax.enable_x64(True)
def test_causal_is_a_triangle_from_the_top_left():
    causal, module = attention(is_causal=True), attention()
    x, context = draw(3, 5, 26), draw(3, 7, 26, seed=1)
    assert_causal(causal, x)
    triangle = jnp.tril(jnp.ones((1, 5, 7), bool))
    keys = jnp.arange(7) != 2

    @compiled
    def outputs(triangle, keys):
        of_causal = causal(x, context), causal(x, context, keys[None])
        return of_causal, (module(x, context, triangle), module(x, context, triangle & keys))

    for one, other in zip(*outputs(triangle, keys), strict=True):
        assert_same(one, other)


@jax.enable_x64(True)
def test_self_attention_is_cross_attention_to_oneself():
    module, x = attention(), draw(3, 5, 26)
    assert_same(module(x, x), module(x))


@pytest.mark.parametrize("num_kv_heads", [1, 3])
@jax.enable_x64(True)
def test_shared_keys_are_copied_keys(num_kv_heads):
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    few_heads = MultiHeadAttention(30, 6, num_kv_heads, **options)
    all_heads = MultiHeadAttention(30, 6, **options)
    for name in ("q_proj", "out_proj"):
        setattr(all_heads, name, getattr(few_heads, name))
    for name in ("k_proj", "v_proj"):
        for leaf in ("kernel", "bias"):
            shared = getattr(getattr(few_heads, name), leaf)[...].reshape(-1, num_kv_heads, 5)
            copied = jnp.repeat(shared, 6 // num_kv_heads, axis=1)
            to = getattr(getattr(all_heads, name), leaf)
            to[...] = copied.reshape(to.shape)
    x, context = draw(3, 5, 30), draw(3, 7, 30, seed=1)
    assert_same(*compiled(lambda x, context: (few_heads(x, context), all_heads(x, context)))(x, context))


@jax.enable_x64(True)
def test_torchs_own_module_computes_the_same():
    import torch

    theirs = torch.nn.MultiheadAttention(26, 2, batch_first=True, dtype=torch.float64).eval()
    torch.nn.init.normal_(theirs.in_proj_bias)
    state = {f"out_proj.{name}": tensor for name, tensor in theirs.out_proj.state_dict().items()}
    for leaf, fused in {"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias}.items():
        parts = fused.detach().chunk(3)
        state |= {
            f"{name}.{leaf}": part for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True)
        }
    module = load_state_dict(attention(), state)

    x, context = draw(3, 5, 26), draw(3, 7, 26, seed=1)
    keys = np.arange(7) < np.array([[7], [3], [1]])
    query, key = (torch.tensor(np.asarray(array)) for array in (x, context))
    hidden = torch.from_numpy(~keys)  # there True hides
    expected, of_each_head = theirs(query, key, key, key_padding_mask=hidden, average_attn_weights=False)
    run = compiled(lambda x, context: module(x, context, jnp.asarray(keys), return_weights=True))
    output, weights = run(x, context)
    assert_same(output, expected.detach())
    assert_same(weights, of_each_head.detach())


def test_torchs_own_module_has_the_same_gradients():
    """Of every parameter and input, through the output and the weights, with keys that are hidden."""
    import torch

    keys = np.arange(7) < np.array([[7], [3], [1]])
    x, context = (np.random.default_rng(0).standard_normal((3, tokens, 26)) for tokens in (5, 7))

    def both(module, x, context, mask):
        return module(
            x, context, context, key_padding_mask=torch.as_tensor(~keys), average_attn_weights=False
        )

    assert_equals(
        MultiHeadAttention(26, 2, rngs=nnx.Rngs(0)),
        torch.nn.MultiheadAttention(26, 2, batch_first=True),
        [Case("cross", (x, context, keys))],
        names=[(rf"^{part}_proj\.(.*)", rf"in_proj_\1[{i}]") for i, part in enumerate("qkv")],
        call_flax=lambda module, x, context, mask: module(x, context, mask, return_weights=True),
        call_torch=both,
    )


def test_torchs_own_module_with_widths_of_its_own_computes_the_same_and_its_gradients():
    import torch

    theirs = torch.nn.MultiheadAttention(26, 2, kdim=7, vdim=11, bias=False, batch_first=True)
    ours = MultiHeadAttention(26, 2, bias=False, kdim=7, vdim=11, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, key, value = (
        rng.standard_normal((3, 5, 26)),
        rng.standard_normal((3, 4, 7)),
        rng.standard_normal((3, 4, 11)),
    )
    assert_equals(
        ours,
        theirs,
        [Case("cross", (x, key), {"value": value})],
        names=[(r"^([qkv])_proj\.weight", r"\1_proj_weight")],
        call_torch=lambda module, x, key, value: module(x, key, value)[0],
    )


@jax.enable_x64(True)
def test_dropout_drops_each_weight_of_each_head_on_its_own():
    module, x = attention(dropout=0.5), draw(1, 1, 26)
    # One token has one weight in each head, 1: it is dropped, or doubled.
    value = module.v_proj(x).reshape(2, 13)
    possible = [
        module.out_proj((value * jnp.array(kept)[:, None]).reshape(1, 1, 26))
        for kept in ((0, 0), (0, 2), (2, 0), (2, 2))
    ]
    run = nnx.jit(lambda module, x: module(x))
    outputs = {tuple(np.round(np.asarray(run(module, x)).ravel(), 9)) for _ in range(40)}
    assert outputs == {tuple(np.round(np.asarray(output).ravel(), 9)) for output in possible}
    module.eval()
    assert_same(run(module, x), module.out_proj(value.reshape(1, 1, 26)))


def test_bad_sizes_are_refused():
    for sizes, message in {
        (26, 3): "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3",
        (26, 2, 4): "num_heads must be divisible by num_kv_heads, got num_heads=2 and num_kv_heads=4",
        (26, 0): "num_heads must be at least 1, got num_heads=0",
        (26, 2, 0): "num_kv_heads must be at least 1, got num_kv_heads=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            MultiHeadAttention(*sizes, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout must be a probability between 0 and 1, got dropout=-0\.1"):
        MultiHeadAttention(26, 2, dropout=-0.1, rngs=nnx.Rngs(0))


def test_bad_options_are_refused():
    for options, message in (
        ({"window": 0}, "window must be at least 1, got window=0"),
        ({"softcap": 0.0}, "softcap must be above 0, got softcap=0.0"),
        ({"sinks": "some"}, "sinks must be one of learned, off_by_one, got 'some'"),
        ({"gate": "row"}, "gate must be one of head, element, got 'row'"),
        ({"bias": ("q", "w")}, "bias must be one of q, k, v, out, got 'w'"),
        ({"qk_norm": "batch"}, "norm must be one of .*, got 'batch'"),
        (
            {"positions": "rotary"},
            "positions must be AttentionPositions, such as RotaryPositions, got 'rotary'",
        ),
        ({"positions": RotaryPositions(12)}, "positions are for heads of width 12, the attention has 13"),
        ({"positions": AlibiPositions(3)}, "positions are for 3 heads, and the attention has 2"),
        ({"head_dim": 0}, "head_dim must be at least 1, got head_dim=0"),
        ({"v_head_dim": 0}, "v_head_dim must be at least 1, got v_head_dim=0"),
        (
            {"v_head_dim": 5, "positions": ShawPositions(13, 3, rngs=nnx.Rngs(0))},
            "v_head_dim must be head_dim=13 where positions add to the values, got 5",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            MultiHeadAttention(26, 2, **options, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 5, 26))
    with pytest.raises(
        ValueError, match="context must be None with window=3: it is a distance within one sequence"
    ):
        MultiHeadAttention(26, 2, window=3, rngs=nnx.Rngs(0))(x, x)
    with pytest.raises(ValueError, match="context must be given where kdim=7 is not 26"):
        MultiHeadAttention(26, 2, kdim=7, rngs=nnx.Rngs(0))(x)


def test_bad_input_is_refused():
    module, x = MultiHeadAttention(26, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    for call, message in (
        ((jnp.ones((3, 5, 25)),), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((jnp.ones(26),), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(26,\)"),
        ((x, jnp.ones((3, 7, 25))), r"context must have shape \(b, t, 26\), got \(3, 7, 25\)"),
        ((x, jnp.ones((7, 26))), r"context must have shape \(b, t, 26\), got \(7, 26\)"),
        ((x, jnp.ones((2, 7, 26))), "context must have the batch size of x, 3, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)


def test_bad_masks_are_refused():
    module, x, context = (
        MultiHeadAttention(26, 2, rngs=nnx.Rngs(0)),
        jnp.ones((3, 5, 26)),
        jnp.ones((3, 7, 26)),
    )
    shapes = r"\(3, 7\), \(3, 5, 7\), \(3, 2, 5, 7\)"
    for shape in ((7,), (3, 5), (5, 7), (2, 7), (3, 7, 5), (3, 4, 5, 7), (1, 3, 2, 5, 7)):
        with pytest.raises(ValueError, match=f"mask must have one of the shapes {shapes}, or 1 for any axis"):
            module(x, context, jnp.ones(shape, bool))
    for dtype in (jnp.int32, jnp.float32):
        message = f"mask must be a boolean array, True = attend, got {jnp.dtype(dtype)}"
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda mask: module(x, context, mask))(jnp.ones((3, 7), dtype))
