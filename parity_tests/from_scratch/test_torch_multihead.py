import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_attn.from_scratch.torch_multihead import TorchMultiheadAttention
from jax_attn.parity.runners.quick import quick_options
from jax_attn.weights.state_dict import load_state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw, seeds


class TestTorchMultihead(TwinContract):
    rows = (
        "torch-multihead",
        "torch-multihead-head-weights",
        "torch-multihead-no-weights",
        "torch-multihead-batch-first",
        "torch-multihead-kdim-vdim",
        "torch-multihead-padding",
        "torch-multihead-masked",
        "torch-multihead-float-mask",
        "torch-multihead-both-masks",
        "torch-multihead-bias-kv",
        "torch-multihead-zero-attn",
    )
    elsewhere = (
        "torch-multihead-masked",
        "torch-multihead-no-weights",
        "torch-multihead-padding",
    )  # both masks, and the head above


def attention(embed_dim: int = 6, num_heads: int = 2, **options) -> TorchMultiheadAttention:
    return TorchMultiheadAttention(embed_dim, num_heads, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def pair(seed: int = 0, **options) -> tuple[TorchMultiheadAttention, torch.nn.MultiheadAttention]:
    """Both sides with the same weights, biases not 0, nothing dropped."""
    theirs = torch.nn.MultiheadAttention(6, 2, **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(generator=generator)
    ours = load_state_dict(attention(**options), theirs.state_dict())
    ours.eval()
    return ours, theirs


constructors = st.fixed_dictionaries(
    {},
    optional={
        "bias": st.booleans(),
        "add_bias_kv": st.booleans(),
        "add_zero_attn": st.booleans(),
        "kdim": st.sampled_from([3, 6]),
        "vdim": st.sampled_from([5, 6]),
        "batch_first": st.booleans(),
    },
)
kinds = st.sampled_from([None, "boolean", "float", "float with -inf"])


def mask(kind: str | None, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
    """A mask of torch's meaning that leaves the first key to everybody."""
    if kind is None:
        return None
    hidden = rng.random(shape) < 0.5
    hidden[..., 0] = False
    added = rng.standard_normal(shape)
    return {"boolean": hidden, "float": added, "float with -inf": np.where(hidden, -np.inf, added)}[kind]


def test_options_together_are_torch_s():
    """What the rows of the catalogue do not have together; the slow test beside it draws at random."""
    options = {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "kdim": 3, "vdim": 5}
    assert_torch_s(options, 3, 5, 7, "float", "float with -inf", True, True, False, False, 0)
    assert_torch_s(options, None, 5, 7, "boolean", None, False, False, True, False, 1)
    assert_torch_s({"bias": False}, None, 5, 7, None, "boolean", False, True, True, True, 2)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    constructors,
    st.sampled_from([None, 3]),
    st.sampled_from([1, 5]),
    st.sampled_from([1, 7]),
    kinds,
    kinds,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    seeds,
)
def test_every_option_is_torch_s(
    options, batch, tokens, others, padding, pairs, per_head, need_weights, average, is_causal, seed
):
    assert_torch_s(
        options, batch, tokens, others, padding, pairs, per_head, need_weights, average, is_causal, seed
    )


@jax.enable_x64(True)
def assert_torch_s(
    options, batch, tokens, others, padding, pairs, per_head, need_weights, average, is_causal, seed
):
    ours, theirs = pair(seed, **options)
    rng = np.random.default_rng(seed)
    widths = (6, options.get("kdim", 6), options.get("vdim", 6))
    inputs = [
        rng.standard_normal((batch or 1, n, w)) for n, w in zip((tokens, others, others), widths, strict=True)
    ]
    if batch is None:
        inputs = [x[0] for x in inputs]
    elif not options.get("batch_first"):
        inputs = [x.swapaxes(0, 1) for x in inputs]
    shape = (tokens, others)
    masks = {
        "key_padding_mask": mask(padding, shape[1:] if batch is None else (batch, others), rng),
        "attn_mask": mask(pairs, (2 * (batch or 1), *shape) if per_head else shape, rng),
    }
    masks = {name: values for name, values in masks.items() if values is not None}
    flags = {
        "need_weights": need_weights,
        "average_attn_weights": average,
        "is_causal": is_causal and "attn_mask" in masks,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
        expected = theirs(
            *map(torch.from_numpy, map(np.ascontiguousarray, inputs)),
            **{name: torch.from_numpy(values) for name, values in masks.items()},
            **flags,
        )
    run = jax.jit(lambda inputs, masks: ours(*inputs, **masks, **flags), compiler_options=quick_options())
    actual = run(inputs, masks)
    assert (actual[1] is None) == (expected[1] is None) == (not need_weights)
    for one, other in zip(actual, expected, strict=True):
        if other is not None:
            assert_same(one, other.detach().numpy())


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["boolean", "float"])
@jax.enable_x64(True)
def test_who_may_look_at_nothing_gets_nothing(need_weights, kind):
    """Where torch gives NaN: weights 0, output `out_proj(0)`, no gradient but that of the bias."""
    module, _ = pair()
    x = draw(5, 3, 6)
    hidden = jnp.zeros((3, 5), bool).at[1].set(True)
    padding = hidden if kind == "boolean" else jnp.where(hidden, -jnp.inf, 0.0)

    def attend(x, padding):
        return module(x, x, x, key_padding_mask=padding, need_weights=need_weights)

    output, weights = compiled(attend)(x, padding)
    assert_same(output[:, 1], jnp.broadcast_to(module.out_proj.bias[...], (5, 6)))
    if need_weights:
        assert_same(weights[1], jnp.zeros((5, 5)))
        assert_same(weights[0].sum(-1), jnp.ones(5))

    def lonely(x, padding):
        return attend(x, padding)[0][:, 1].sum()

    by = (0, 1) if kind == "float" else (0,)
    for gradient in compiled(jax.grad(lonely, by))(x, padding):
        assert_same(gradient, jnp.zeros_like(gradient))


@jax.enable_x64(True)
def test_torch_gives_nan_to_who_may_look_at_nothing():
    """The one difference of the two, and the reason why the property above leaves a key to everybody."""
    _, theirs = pair()
    x = torch.ones(5, 3, 6, dtype=torch.float64)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1] = True
    assert torch.isnan(theirs(x, x, x, key_padding_mask=padding)[0][:, 1]).all()


@jax.enable_x64(True)
def test_batch_first_is_a_matter_of_axes():
    first, second = (compiled(attention(batch_first=first)) for first in (True, False))
    query, memory = draw(3, 5, 6), draw(3, 7, 6, seed=1)
    output, weights = first(query, memory, memory)
    swapped, same_weights = second(*(x.swapaxes(0, 1) for x in (query, memory, memory)))
    assert_same(swapped.swapaxes(0, 1), output)
    assert_same(same_weights, weights)
    for module in (first, second):
        alone, own_weights = module(*(np.asarray(x)[0] for x in (query, memory, memory)))
        assert_same(alone, output[0])
        assert_same(own_weights, weights[0])


@jax.enable_x64(True)
def test_no_mask_reaches_the_added_keys():
    module, x = attention(add_bias_kv=True, add_zero_attn=True), draw(5, 3, 6)
    _, weights = compiled(lambda x: module(x, x, x, key_padding_mask=jnp.ones((3, 5), bool)))(x)
    assert weights.shape == (3, 5, 7)
    assert_same(weights[..., :5], jnp.zeros((3, 5, 5)))
    assert (weights[..., 5:] > 0).all()


@jax.enable_x64(True)
def test_dropout_reaches_the_returned_weights():
    module, x = attention(dropout=0.5), draw(5, 3, 6)
    run = nnx.jit(lambda module, x: module(x, x, x, average_attn_weights=False)[1])
    weights = np.asarray(run(module, x))
    assert 0 < (weights == 0).mean() < 1
    module.eval()
    assert (np.asarray(run(module, x)) > 0).all()


def test_weights_start_as_torch_s():
    flax = TorchMultiheadAttention(62, 2, add_bias_kv=True, rngs=nnx.Rngs(0))
    separate = TorchMultiheadAttention(62, 2, kdim=17, vdim=19, rngs=nnx.Rngs(0))
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(62, 2, add_bias_kv=True)
    for values in (flax.in_proj_weight[...], theirs.in_proj_weight.detach().numpy()):
        bound = (6 / (4 * 62)) ** 0.5  # over all three projections at once
        assert 0.95 * bound < np.abs(values).max() <= bound
    for values, fan in (
        (separate.q_proj_weight, 62 + 62),
        (separate.k_proj_weight, 62 + 17),
        (separate.v_proj_weight, 62 + 19),
    ):
        bound = (6 / fan) ** 0.5
        assert 0.95 * bound < np.abs(values[...]).max() <= bound
    for values in (flax.bias_k[...], flax.bias_v[...], theirs.bias_k.detach().numpy()):
        assert 0.7 < np.std(values) * 62**0.5 < 1.3
    assert not flax.in_proj_bias[...].any()
    assert not flax.out_proj.bias[...].any()
    bound = 62**-0.5
    assert 0.95 * bound < np.abs(flax.out_proj.kernel[...]).max() <= bound


def test_a_bad_constructor_is_refused():
    def build(*args, **options):
        return TorchMultiheadAttention(*args, **options, rngs=nnx.Rngs(0))

    with pytest.raises(
        ValueError, match="embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads=4"
    ):
        build(6, 4)
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        build(6, 0)
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        build(0, 1)
    with pytest.raises(ValueError, match="kdim must be at least 1, got kdim=0"):
        build(6, 2, kdim=0)
    with pytest.raises(ValueError, match="vdim must be at least 1, got vdim=-1"):
        build(6, 2, vdim=-1)
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=-1"):
        build(6, 2, dropout=-1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(5,), (7, 6), (7, 6)], r"query must have shape \(t, 6\) or \(t, b, 6\), got \(5,\)"),
        (
            [(5, 3, 4), (7, 3, 6), (7, 3, 6)],
            r"query must have shape \(t, 6\) or \(t, b, 6\), got \(5, 3, 4\)",
        ),
        ([(5, 3, 6), (7, 6), (7, 6)], r"key must have shape \(t, b, 6\), got \(7, 6\)"),
        ([(5, 6), (7, 5), (7, 6)], r"key must have shape \(t, 6\), got \(7, 5\)"),
        ([(5, 6), (7, 6), (7, 5)], r"value must have shape \(t, 6\), got \(7, 5\)"),
        ([(5, 3, 6), (7, 2, 6), (7, 2, 6)], r"one batch size.* got \(b, t\) \(3, 5\), \(2, 7\) and \(2, 7\)"),
        ([(5, 6), (7, 6), (5, 6)], r"key and value one length, got \(b, t\) \(1, 5\), \(1, 7\) and \(1, 5\)"),
    ],
)
def test_bad_shapes_are_refused(shapes, message):
    module = TorchMultiheadAttention(6, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        module(*map(jnp.ones, shapes))


def test_bad_shapes_are_told_in_the_order_of_batch_first():
    module = TorchMultiheadAttention(6, 2, batch_first=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"query must have shape \(t, 6\) or \(b, t, 6\), got \(3, 5\)"):
        module(jnp.ones((3, 5)), jnp.ones((3, 5)), jnp.ones((3, 5)))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"key_padding_mask": jnp.zeros((7, 3), bool)}, r"must have shape \(3, 7\), got \(7, 3\)"),
        ({"key_padding_mask": jnp.zeros(7, bool)}, r"must have shape \(3, 7\), got \(7,\)"),
        ({"attn_mask": jnp.zeros((7, 5))}, r"must have shape \(5, 7\) or \(6, 5, 7\), got \(7, 5\)"),
        ({"attn_mask": jnp.zeros((3, 5, 7))}, r"must have shape \(5, 7\) or \(6, 5, 7\), got \(3, 5, 7\)"),
        (
            {"key_padding_mask": jnp.zeros((3, 7), int)},
            r"key_padding_mask must be a boolean \(True = masked\) or floating array, got int",
        ),
        (
            {"attn_mask": jnp.zeros((5, 7), int)},
            r"attn_mask must be a boolean \(True = masked\) or floating array, got int",
        ),
        (
            {"attn_mask": [[False] * 7] * 5},
            r"attn_mask must be a boolean \(True = masked\) or floating array, got <class 'list'>",
        ),
        (
            {"is_causal": True},
            "is_causal is a hint that attn_mask is causal: it needs attn_mask, got attn_mask=None",
        ),
    ],
)
def test_bad_masks_are_refused(masks, message):
    module = TorchMultiheadAttention(6, 2, rngs=nnx.Rngs(0))
    query, memory = jnp.ones((5, 3, 6)), jnp.ones((7, 3, 6))
    with pytest.raises(ValueError, match=message):
        module(query, memory, memory, **masks)


def test_a_bad_mask_without_a_batch_axis_is_refused():
    module = TorchMultiheadAttention(6, 2, rngs=nnx.Rngs(0))
    query, memory = jnp.ones((5, 6)), jnp.ones((7, 6))
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(7,\), got \(1, 7\)"):
        module(query, memory, memory, key_padding_mask=jnp.zeros((1, 7), bool))
    with pytest.raises(
        ValueError, match=r"attn_mask must have shape \(5, 7\) or \(2, 5, 7\), got \(1, 5, 7\)"
    ):
        module(query, memory, memory, attn_mask=jnp.zeros((1, 5, 7), bool))
