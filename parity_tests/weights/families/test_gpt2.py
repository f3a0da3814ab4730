import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.gpt2.configuration_gpt2 import GPT2Config

from jax_attn.weights import from_config, from_pretrained, numpy_state_dict
from parity_tests.weights.families.decoder_contract import VOCAB, assert_family, edited, refusal, theirs

SIZES = {"vocab_size": VOCAB, "n_positions": 13, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 17}


def gpt2(kind=modeling_gpt2.GPT2LMHeadModel, **options):
    return theirs(kind, GPT2Config, **{**SIZES, **options})


@pytest.mark.parametrize("lanes", [("dropout",), pytest.param(("float64",), marks=pytest.mark.slow)])
def test_every_option_at_once(tmp_path, lanes):
    """Three kinds of dropout, and scores that are divided by the number of the layer."""
    options = {"embd_pdrop": 0.2, "attn_pdrop": 0.3, "resid_pdrop": 0.25, "layer_norm_epsilon": 1e-3}
    assert_family(gpt2(**options, scale_attn_by_inverse_layer_idx=True), tmp_path, lanes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"scale_attn_weights": False},
        {"n_inner": None, "activation_function": "relu"},
        {"tie_word_embeddings": False},
    ],
)
def test_other_options(tmp_path, options):
    assert_family(gpt2(**options), tmp_path, ("float64",))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ForTokenClassification", "ForSequenceClassification"])
def test_heads(tmp_path, head):
    model = gpt2(getattr(modeling_gpt2, f"GPT2{head}"), num_labels=5, pad_token_id=2)
    assert_family(model, tmp_path, ("float64",))


def test_old_files(tmp_path):
    """The first files have no prefix, and the masks of each layer; some configs say it in the words of others."""
    gpt2().save_pretrained(tmp_path)
    expected = numpy_state_dict(from_pretrained(tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
    for layer in range(2):
        bare[f"h.{layer}.attn.bias"] = np.tri(13, dtype=np.float32)[None, None]
        bare[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_file(bare, tmp_path / "model.safetensors")
    edited(tmp_path, n_ctx=13, n_embd=..., hidden_size=12, reorder_and_upcast_attn=True)
    found = numpy_state_dict(from_pretrained(tmp_path))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor)
    assert refusal(tmp_path, add_cross_attention=True).startswith("add_cross_attention=True is not supported")


def test_initial_weights_of_branches_are_narrower():
    config = {
        "model_type": "gpt2",
        "vocab_size": 5,
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 3,
        "initializer_range": 0.3,
    }
    layer = from_config(config, rngs=nnx.Rngs(0)).decoder.layers[1]
    for linear, deviation in (
        (layer.attention.q_proj, 0.3),
        (layer.attention.out_proj, 0.15),
        (layer.feed_forward.up, 0.3),
        (layer.feed_forward.down, 0.15),
    ):
        assert abs(linear.kernel[...].std() / deviation - 1) < 0.03
