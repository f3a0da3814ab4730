import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.functional.deepnorm import deepnorm_scales
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.encoder_layer import NORM_PLACEMENTS, EncoderLayer
from jax_attn.nn.layers.mixture_of_experts import MixtureOfExperts
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    compiled,
    draw,
)
from parity_tests.references import assert_equals


class TestEncoderLayer(TwinContract):
    rows = (
        "encoder-layer-post",
        "encoder-layer-pre",
        "encoder-layer-scaled",
        "encoder-layer-deepnorm",
        "encoder-layer-first",
        "encoder-layer-experts",
    )
    elsewhere = ("encoder-layer-experts",)  # the mixture's own row, and Mixtral


def layer(norm_placement: str, **options) -> EncoderLayer:
    return EncoderLayer(
        26, 2, 29, norm_placement=norm_placement, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


@pytest.mark.parametrize("norm_placement", ["post", "pre"])
@jax.enable_x64(True)
def test_neither_order_nor_company_matters(norm_placement):
    module = layer(norm_placement)
    assert_permutation_equivariant(module, draw(3, 5, 26))
    assert_batch_independent(module, draw(3, 5, 26))


@jax.enable_x64(True)
def test_where_the_norm_stands():
    x = 100 + draw(3, 5, 26)
    post = layer("post")(x)
    assert_same(post.mean(-1), jnp.zeros((3, 5)))
    assert_same(post.std(-1), jnp.ones((3, 5)))

    pre = layer("pre")
    for last in (pre.attention.out_proj, pre.feed_forward.down):
        last.kernel[...], last.bias[...] = jnp.zeros_like(last.kernel), jnp.zeros_like(last.bias)
    assert_same(pre(x), x)  # with empty branches the skip connections are all there is


@jax.enable_x64(True)
def test_every_placement_is_its_formula():
    x, alpha = draw(3, 5, 26), 1.7
    modules = {
        name: layer(name, norm="rms", layer_scale=0.5, residual_scale=alpha if name == "post" else 1.0)
        for name in NORM_PLACEMENTS
    }

    @compiled
    def both(x):
        expected = {}
        for name, module in modules.items():
            attend, feed = module.attention, module.feed_forward
            norm1, norm2 = module.attention_norm, module.feed_forward_norm
            if name == "post":
                h = norm1(alpha * x + 0.5 * attend(x))
                expected[name] = norm2(alpha * h + 0.5 * feed(h))
            elif name == "pre":
                h = x + 0.5 * attend(norm1(x))
                expected[name] = h + 0.5 * feed(norm2(h))
            elif name == "sandwich":
                h = x + 0.5 * module.attention_output_norm(attend(norm1(x)))
                expected[name] = h + 0.5 * module.feed_forward_output_norm(feed(norm2(h)))
            else:
                norm2 = norm1 if norm2 is None else norm2
                expected[name] = x + 0.5 * (attend(norm1(x)) + feed(norm2(x)))
        return {name: module(x) for name, module in modules.items()}, expected

    for index, module in enumerate(modules.values()):  # norms that differ from one another
        norms = [
            value for name, value in vars(module).items() if name.endswith("_norm") and value is not None
        ]
        for other, norm in enumerate(norms):
            norm.scale[...] = 1 + 0.3 * draw(26, seed=10 * index + other)
    assert [name for name in NORM_PLACEMENTS if modules[name].feed_forward_norm is None] == ["parallel"]
    actual, expected = both(x)
    for name in NORM_PLACEMENTS:
        assert_same(actual[name], expected[name])


def test_deepnorms_scales_are_those_of_the_paper():
    # Its table 2, at depths where the roots are whole.
    assert deepnorm_scales(encoder_layers=8) == {"encoder": pytest.approx((2, 64**-0.25))}
    assert deepnorm_scales(decoder_layers=8) == {"decoder": pytest.approx((2, 64**-0.25))}
    both = deepnorm_scales(encoder_layers=16, decoder_layers=27)
    root = 2 * 27 ** (1 / 16)  # 16^(4/16) and 27^(1/16)
    assert both == {
        "encoder": pytest.approx((0.81 * root, 0.87 / root)),
        "decoder": pytest.approx((3, 324**-0.25)),
    }
    with pytest.raises(ValueError, match="numbers of layers must not be below 0, got -1 and 0"):
        deepnorm_scales(-1)


# torch.nn.TransformerEncoderLayer's names against ours.
THEIR_NAMES = [
    *(
        (rf"\battention\.{name}_proj\.(\w+)$", rf"self_attn.in_proj_\1[{index}]")
        for index, name in enumerate("qkv")
    ),
    (r"\battention\.out_proj", "self_attn.out_proj"),
    (r"\battention_norm", "norm1"),
    (r"\bfeed_forward\.up", "linear1"),
    (r"\bfeed_forward\.down", "linear2"),
    (r"\bfeed_forward_norm", "norm2"),
]


@pytest.mark.parametrize("norm_placement", ["post", "pre"])
def test_torchs_own_layer_computes_the_same(norm_placement):
    options = {"activation": "gelu", "batch_first": True, "norm_first": norm_placement == "pre"}
    theirs = torch.nn.TransformerEncoderLayer(26, 2, 29, **options)
    ours = EncoderLayer(26, 2, 29, norm_placement=norm_placement, eps=1e-5, rngs=nnx.Rngs(0))
    keys = np.arange(5) < np.array([[5], [3], [1]])
    x = np.random.default_rng(0).standard_normal((3, 5, 26))
    assert_equals(
        ours,
        theirs,
        [Case("padding", (x, keys))],
        names=THEIR_NAMES,
        call_torch=lambda module, x, keys: module(x, src_key_padding_mask=~keys),
    )


@jax.enable_x64(True)
def test_the_parts_may_be_given_and_take_what_is_theirs():
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    attention = MultiHeadAttention(26, 2, **options)
    experts = MixtureOfExperts(26, 29, 3, **options)
    module = EncoderLayer(26, attention=attention, feed_forward=experts, norm_placement="pre", **options)
    x, segments = draw(3, 5, 26), jnp.array([[0, 0, 1, 1, 1]] * 3)

    @compiled
    def both(x):
        h = x + attention(module.attention_norm(x), segment_ids=segments)
        return module(x, segment_ids=segments), h + experts(module.feed_forward_norm(h))

    assert_same(*both(x))


def test_bad_arguments_and_input_are_refused():
    options = {"rngs": nnx.Rngs(0)}
    for arguments, message in (
        ({"norm_placement": "both"}, "norm_placement must be one of post, pre, .*, got 'both'"),
        ({"norm": "batch"}, "norm must be one of layer, .*, got 'batch'"),
        ({"activation": "swiglu"}, "activation must be one of gelu, .*, got 'swiglu'"),
        ({"num_heads": 3}, "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"),
        ({"num_heads": None}, "num_heads must be given, or attention, got neither"),
        ({"hidden_dim": None}, "hidden_dim must be given, or feed_forward, got neither"),
        (
            {"attention": MultiHeadAttention(8, 2, **options)},
            "attention must be for embed_dim=26, got one for 8",
        ),
        (
            {"residual_scale": 2.0, "norm_placement": "pre"},
            "residual_scale is for norm_placement=.post., got 2.0",
        ),
        ({"first_norm": False}, "first_norm=False is for norm_placement=.pre., got 'post'"),
        ({"drop_path": 1.5}, "drop_path must be a probability between 0 and 1, got drop_path=1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            EncoderLayer(**{"embed_dim": 26, "num_heads": 2, "hidden_dim": 29, **arguments}, **options)
    with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(5, 25\)"):
        EncoderLayer(26, 2, 29, **options)(jnp.ones((5, 25)))
