"""What `config.json` says in decoders that many use: every attribute is known, and means what it meant there."""

from typing import Any

import pytest

from jax_attn.models.part import Part
from jax_attn.nn.positions.rotary_scaling import Llama3Scaling
from jax_attn.weights.config import BUILDING, model_arguments
from jax_attn.weights.families import family_of
from parity_tests.weights.families.transformers_models import built

NEUTRAL = {
    **{"bos_token_id": 1, "eos_token_id": [2, 3], "initializer_range": 0.02, "use_cache": True},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0"},
}
LLAMA_3_1 = {
    **{
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_act": "silu",
    },
    **{"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1},
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32},
    **{"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072},
    **{"rope_theta": 500000.0, "tie_word_embeddings": False},
    "rope_scaling": {
        **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"},
        "original_max_position_embeddings": 8192,
    },
}
SMOLLM2 = {
    **{
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_act": "silu",
    },
    **{"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "is_llama_config": True},
    **{"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30},
    **{"num_key_value_heads": 3, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "pad_token_id": 2},
    **{"rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True},
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
}
MISTRAL = {
    **{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32000},
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32},
    **{
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
    },
    **{"rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False},
}
QWEN2_5 = {
    **{
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_act": "silu",
    },
    **{"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24},
    **{"num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
    **{"max_window_layers": 24, "sliding_window": 32768, "use_sliding_window": False, "use_mrope": False},
    **{"rope_theta": 1000000.0, "tie_word_embeddings": True, "attention_dropout": 0.0},
}
QWEN3 = {
    **{
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_act": "silu",
    },
    **{"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_hidden_layers": 28},
    **{"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960},
    **{"max_window_layers": 28, "sliding_window": None, "use_sliding_window": False, "attention_bias": False},
    **{"rope_scaling": None, "rope_theta": 1000000, "tie_word_embeddings": True, "attention_dropout": 0.0},
}
GEMMA2 = {
    **{"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256000},
    **{"attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0},
    **{"final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh"},
    **{"hidden_activation": "gelu_pytorch_tanh", "cache_implementation": "hybrid", "pad_token_id": 0},
    **{"hidden_size": 2304, "intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26},
    **{"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192},
    **{"query_pre_attn_scalar": 256, "rope_theta": 10000.0, "sliding_window": 4096},
}
GPT2 = {
    **{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257, "n_ctx": 1024},
    **{"activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
    **{"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024, "layer_norm_epsilon": 1e-5},
    **{"n_special": 0, "predict_special_tokens": True, "summary_activation": None},
    **{"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index"},
    **{"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama 3.1": LLAMA_3_1,
    "SmolLM2": SMOLLM2,
    "Mistral": MISTRAL,
    "Qwen 2.5": QWEN2_5,
    "Qwen 3": QWEN3,
    "Gemma 2": GEMMA2,
    "GPT-2": GPT2,
}


def layers_of(config: dict[str, Any]) -> list[Part]:
    """The attentions of the model that a `config.json` describes."""
    family = family_of(config)
    settings = model_arguments({**NEUTRAL, **config}, family.rules_for(config["architectures"][0]))
    model = family.part(config["architectures"][0], {**BUILDING, **settings}).arguments["model"]
    return [layer.arguments["attention"] for layer in model.arguments["decoder"].arguments["layers"]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_understood(name):
    config = PUBLISHED[name]
    layers = layers_of(config)
    windows = [layer.arguments.get("window") for layer in layers]
    assert len(layers) == config.get("num_hidden_layers", config.get("n_layer"))
    assert windows == {"Mistral": [4096] * 32, "Gemma 2": [4096, None] * 13}.get(name, [None] * len(layers))
    assert layers[0].arguments.get("head_dim", 64) == {
        "Llama 3.1": 128,
        "Mistral": 128,
        "Qwen 3": 128,
        "Gemma 2": 256,
    }.get(name, 64)
    if name != "GPT-2":
        rotary = layers[0].arguments["positions"].build("jax_attn")
        scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192) if name == "Llama 3.1" else None
        assert (rotary.base, rotary.scaling) == (config["rope_theta"], scaling)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_built(name):
    """Of one layer: its constructors take what the table of the family says."""
    layers = "n_layer" if name == "GPT-2" else "num_hidden_layers"
    module = built({**NEUTRAL, **PUBLISHED[name], layers: 1})
    attention = module.model.decoder.layers[0].attention
    assert (attention.q_proj.bias is not None) == (name in ("Qwen 2.5", "GPT-2"))
    assert (attention.out_proj.bias is not None) == (name == "GPT-2")
