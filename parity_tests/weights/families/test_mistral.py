import pytest
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralForCausalLM

from jax_attn.weights import from_pretrained
from parity_tests.weights.families.decoder_contract import SIZES, assert_family, edited, refusal, theirs


@pytest.mark.parametrize("window", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_a_window(tmp_path, window):
    options = {"sliding_window": window, "head_dim": 10, "attention_dropout": 0.3}
    assert_family(theirs(MistralForCausalLM, MistralConfig, **SIZES, **options), tmp_path, ("float64",))
    assert refusal(tmp_path, layer_types=["full_attention"] * 2).startswith(
        "layer_types=['full_attention', 'full"
    )
    assert refusal(tmp_path, attention_bias=True).startswith(
        "attention_bias=True is not supported, only False"
    )
    layer = from_pretrained(edited(tmp_path, sliding_window=...)).model.decoder.layers[0]
    assert layer.attention.window == 4096
    assert layer.attention.dropout.rate == 0.3
