"""The leaves: what they do otherwise than NNX's is what torch's do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.functional.dropout import draw_keep_mask
from jax_attn.nn.primitives import Conv, Dropout, Embedding, LayerNorm, RMSNorm, make_norm
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.weights import load_state_dict, state_dict
from parity_tests.contract import TwinContract, assert_close
from parity_tests.references import assert_equals

IDS = np.array([[5, 0, 1, 0], [1, 6, 1, 5]])


def loss(module, ids):
    return jnp.sum(jnp.cos(module(ids)))


@pytest.mark.parametrize("padding_idx", [None, 0, 1, 6, -1, -7])
@jax.enable_x64(True)
def test_a_padding_row_is_torchs(padding_idx):
    """1 is RoBERTa's; a negative one counts from the end."""
    theirs = torch.nn.Embedding(7, 3, padding_idx).double()
    ours = Embedding(7, 3, padding_idx, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    assert ours.padding_idx == theirs.padding_idx
    np.testing.assert_array_equal(
        (ours.embedding[...] == 0).all(1), (theirs.weight.detach() == 0).all(1).numpy()
    )
    weight = torch.randn(7, 3, dtype=torch.float64)  # whatever was loaded is looked up, padding or not
    theirs.load_state_dict({"weight": weight})
    load_state_dict(ours, {"weight": weight})

    rows = theirs(torch.from_numpy(IDS))
    rows.cos().sum().backward()
    np.testing.assert_array_equal(ours(jnp.asarray(IDS)), rows.detach())
    gradient = nnx.grad(loss)(ours, jnp.asarray(IDS)).embedding[...]
    np.testing.assert_allclose(gradient, theirs.weight.grad, rtol=1e-12, atol=1e-12)
    assert np.abs(gradient).max() > 0.1


def test_a_tied_head_trains_the_padding_row():
    """Only looking it up gives no gradient: torch's rule."""
    ours = Embedding(7, 3, 1, rngs=nnx.Rngs(0))
    theirs = torch.nn.Embedding(7, 3, 1)
    theirs.load_state_dict(state_dict(ours))
    ids = jnp.asarray(IDS)
    gradient = nnx.grad(lambda module: jnp.sum(jnp.cos(module.attend(module(ids)))))(ours).embedding[...]
    rows = theirs(torch.from_numpy(IDS))
    (rows @ theirs.weight.T).cos().sum().backward()
    assert_close([gradient], [theirs.weight.grad])
    ours.embedding.set_value(ours.embedding[...] + 1)
    gradient = nnx.grad(lambda module: jnp.sum(jnp.cos(module.attend(module(ids)))))(ours).embedding[...]
    assert np.abs(gradient[1]).max() > 0.1


@pytest.mark.parametrize("padding_idx", [7, -8])
def test_a_padding_row_outside_the_table_is_refused(padding_idx):
    with pytest.raises(ValueError, match=f"padding_idx must be within num_embeddings=7, got {padding_idx}"):
        Embedding(7, 3, padding_idx, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("kernel_size", "options"), [((3,), {"stride": 2, "padding": 1}), ((2, 3), {"groups": 2, "bias": False})]
)
def test_convolutions_are_torchs(kernel_size, options):
    """In every lane; of the initial weights, the bounds."""
    kind = torch.nn.Conv1d if len(kernel_size) == 1 else torch.nn.Conv2d
    ours, theirs = Conv(6, 10, kernel_size, **options, rngs=nnx.Rngs(0)), kind(6, 10, kernel_size, **options)
    bound = float(theirs.weight.detach().abs().max())
    assert 0.9 * bound < np.abs(ours.kernel[...]).max() < 1.1 * bound
    x = np.random.default_rng(0).standard_normal((3, *(7, 5)[: len(kernel_size)], 6))

    def channels_first(module, x):
        return module(x.movedim(-1, -len(kernel_size) - 1)).movedim(-len(kernel_size) - 1, -1)

    cases = [Case("plain", (x,)), Case("unbatched", (x[0],), lanes=("float64",))]
    compare_cases(ours, theirs, cases, call_torch=channels_first).assert_passed()


class TestRMSNorm(TwinContract):
    rows = ("rms-norm", "rms-norm-unit-offset")


def norm_cases() -> list[Case]:
    """Rows of very different size: eps counts in the second."""
    x = np.random.default_rng(0).standard_normal((3, 5, 7))
    return [Case("plain", (x,)), Case("tiny", (1e-3 * x,)), Case("a head each", (x[:, :, None] + 10,))]


def references() -> dict[str, tuple[nnx.Module, torch.nn.Module]]:
    """Each norm and a module that computes the same, which is not ours."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    rngs = nnx.Rngs(0)
    return {
        "torch": (RMSNorm(7, eps=1e-5, rngs=rngs), torch.nn.RMSNorm(7, eps=1e-5)),
        "Llama": (RMSNorm(7, rngs=rngs), LlamaRMSNorm(7)),
        "Gemma2": (RMSNorm(7, unit_offset=True, rngs=rngs), Gemma2RMSNorm(7)),
        "without a bias": (LayerNorm(7, bias=False, rngs=rngs), torch.nn.LayerNorm(7, bias=False)),
    }


@pytest.mark.parametrize("name", ["torch", "Llama", "Gemma2", "without a bias"])
def test_norms_are_those_of_torch_and_transformers(name):
    ours, theirs = references()[name]
    initial = ours.scale[...]
    np.testing.assert_array_equal(initial, theirs.weight.detach())
    assert_equals(ours, theirs, norm_cases())


@pytest.mark.parametrize("unit_offset", [False, True])
def test_an_rms_norm_rounds_once_in_16_bits(unit_offset):
    """As torch and Gemma, and not as Llama, which rounds before it multiplies with the scale."""
    x, scale = np.random.default_rng(0).standard_normal((2, 257, 7))
    x, scale = jnp.asarray(x, jnp.bfloat16), jnp.asarray(scale[0], jnp.bfloat16)
    ours = RMSNorm(7, unit_offset=unit_offset, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    ours.scale.set_value(scale)
    wide = RMSNorm(7, unit_offset=unit_offset, rngs=nnx.Rngs(0))
    wide.scale.set_value(scale.astype(jnp.float32))
    output = ours(x)
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, wide(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_a_norm_is_made_by_its_name():
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.bfloat16}
    layer, bare, rms, offset = (
        make_norm(kind, 7, **options) for kind in ("layer", "layer_without_bias", "rms", "rms_unit_offset")
    )
    assert isinstance(layer, LayerNorm)
    assert layer.bias is not None
    assert isinstance(bare, LayerNorm)
    assert bare.bias is None
    assert (layer.epsilon, rms.eps, make_norm("rms", 7, 1e-3, **options).eps) == (1e-5, 1e-6, 1e-3)
    assert (type(rms), rms.unit_offset, rms.scale.dtype) == (RMSNorm, False, jnp.bfloat16)
    assert (type(offset), offset.unit_offset) == (RMSNorm, True)


def test_bad_norms_and_bad_input_are_refused():
    with pytest.raises(
        ValueError, match=r"norm must be one of layer, layer_without_bias, rms, .*got 'batch'"
    ):
        make_norm("batch", 7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="normalized_shape must be at least 1, got normalized_shape=0"):
        RMSNorm(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(..., 7\), got \(3, 5\)"):
        RMSNorm(7, rngs=nnx.Rngs(0))(jnp.ones((3, 5)))


def test_bad_convolutions_and_bad_input_are_refused():
    with pytest.raises(
        ValueError, match="in_features must be divisible by groups, got in_features=5 and groups=2"
    ):
        Conv(5, 6, (3,), groups=2, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"inputs must have shape \(h, w, 5\) or \(b, h, w, 5\), got \(4, 5\)"
    ):
        Conv(5, 6, (2, 3), rngs=nnx.Rngs(0))(jnp.ones((4, 5)))


@pytest.mark.parametrize("shape", [(), (4001,), (61, 67), (7, 1, 601), (3, 5, 17, 19)])
def test_dropout_keeps_its_share_whatever_the_shape(shape):
    rate = 0.3
    keys = jax.random.split(jax.random.key(0), 4001 if shape == () else 2)
    kept = np.asarray(jax.vmap(lambda key: draw_keep_mask(key, rate, shape))(keys))
    assert kept.shape == (len(keys), *shape)
    share = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * share
    both = kept[: len(kept) // 2] == kept[-(len(kept) // 2) :]  # two keys agree by chance alone
    assert abs(both.mean() - (rate**2 + (1 - rate) ** 2)) < 5 * np.sqrt(0.25 / both.size)


def test_dropout_draws_rows_and_columns_apart():
    kept = np.asarray(draw_keep_mask(jax.random.key(1), 0.5, (97, 89))) - 0.5
    alike = (
        np.abs(kept @ kept.T / 89 * 4 - np.eye(97)).max(),
        np.abs(kept.T @ kept / 97 * 4 - np.eye(89)).max(),
    )
    assert max(alike) < 0.55  # 5 sigma of chance


def test_dropout_scales_what_it_keeps_in_every_dtype():
    for dtype in (jnp.float32, jnp.bfloat16):
        dropped = nnx.jit(lambda module, x: module(x))(
            Dropout(0.5, rngs=nnx.Rngs(0)), jnp.ones((3, 50), dtype)
        )
        assert dropped.dtype == dtype
        assert {*np.asarray(dropped, np.float32).ravel()} == {0.0, 2.0}
