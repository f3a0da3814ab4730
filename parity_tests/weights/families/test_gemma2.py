import pytest
from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM

from jax_attn.weights import from_pretrained
from parity_tests.weights.families.decoder_contract import SIZES, assert_family, edited, refusal, theirs

OPTIONS = {
    "num_hidden_layers": 4,
    "head_dim": 10,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 7,
    "sliding_window": 3,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}


@pytest.mark.parametrize(
    "others",
    [
        {"attention_bias": True, "attention_dropout": 0.3, "tie_word_embeddings": True},
        pytest.param(
            {"attn_logit_softcapping": None, "final_logit_softcapping": None}, marks=pytest.mark.slow
        ),
        pytest.param({"layer_types": ["full_attention", *["sliding_attention"] * 3]}, marks=pytest.mark.slow),
        pytest.param({"tie_word_embeddings": False, "hidden_activation": "gelu"}, marks=pytest.mark.slow),
    ],
)
def test_every_option(tmp_path, others):
    """Pairs of layers, one with a window and one without, are one step of the loop."""
    model = theirs(Gemma2ForCausalLM, Gemma2Config, **{**SIZES, **OPTIONS, **others})
    assert_family(model, tmp_path, ("float64",))
    assert refusal(tmp_path, use_bidirectional_attention=True).startswith(
        "use_bidirectional_attention=True is not"
    )
    ours = from_pretrained(
        edited(tmp_path, layer_types=..., hidden_act="gelu_pytorch_tanh", cache_implementation="hybrid")
    )
    assert [layer.attention.window for layer in ours.model.decoder.layers] == [3, None, 3, None]
