import pytest
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from jax_attn.weights import from_pretrained
from parity_tests.weights.families.decoder_contract import SIZES, assert_family, edited, refusal, theirs

FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}


def windows(folder, **attributes):
    """Those of the layers of a `config.json`."""
    return [
        layer.attention.window for layer in from_pretrained(edited(folder, **attributes)).model.decoder.layers
    ]


@pytest.mark.slow
def test_qwen2(tmp_path):
    """Biases of queries, keys and values, and a window in the last layers."""
    model = theirs(Qwen2ForCausalLM, Qwen2Config, **SIZES, **WINDOW, tie_word_embeddings=True)
    assert_family(model, tmp_path, ("float64",))
    assert windows(tmp_path, layer_types=...) == [None, 3]
    assert windows(tmp_path, layer_types=..., use_sliding_window=False) == [None, None]
    assert windows(tmp_path, layer_types=[FULL, FULL], sliding_window=None) == [None, None]
    assert refusal(tmp_path, layer_types=[FULL]).startswith(
        "layer_types must have one of num_hidden_layers=2, got 1"
    )
    assert refusal(tmp_path, layer_types=[FULL, "chunked_attention"]).startswith(
        "layer_types: 'chunked_attention' is not supported"
    )
    assert refusal(tmp_path, layer_types=[FULL, SLIDING]).endswith("and sliding_window is null")
    assert refusal(tmp_path, attention_bias=True).startswith("attention_bias=True is not known here")


@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_qwen3(tmp_path, bias):
    """Norms of queries and keys, and a window where `layer_types` says so."""
    options = {
        "head_dim": 10,
        "attention_bias": bias,
        "layer_types": [SLIDING, FULL],
        "attention_dropout": 0.3,
    }
    model = theirs(Qwen3ForCausalLM, Qwen3Config, **SIZES, **WINDOW, **options)
    assert_family(model, tmp_path, ("float64",))
