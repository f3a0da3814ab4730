"""What `config.json` says in checkpoints that many use: every attribute is known, and means what it meant there."""

from typing import Any

import pytest

from jax_attn.weights.config import model_arguments
from jax_attn.weights.families import family_of

VIT = {
    **{"architectures": ["ViTForImageClassification"], "model_type": "vit", "encoder_stride": 16},
    **{"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "hidden_act": "gelu"},
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    **{"image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True, "layer_norm_eps": 1e-12},
    **{"initializer_range": 0.02, "id2label": {"0": "tench", "1": "goldfish", "2": "shark"}},
}
DINOV2 = {
    **{"architectures": ["Dinov2Model"], "model_type": "dinov2", "apply_layernorm": True, "mlp_ratio": 4},
    **{"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0},
    **{"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "layer_norm_eps": 1e-6},
    **{"image_size": 518, "patch_size": 14, "num_channels": 3, "qkv_bias": True, "layerscale_value": 1.0},
    **{"out_features": ["stage12"], "out_indices": [12], "stage_names": ["stem", "stage1"]},
    **{
        "reshape_hidden_states": True,
        "use_swiglu_ffn": False,
        "torch_dtype": "float32",
        "hidden_act": "gelu",
    },
}
DEBERTA_V3 = {
    **{"model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1},
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    **{"max_position_embeddings": 512, "relative_attention": True, "position_buckets": 256},
    **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p", "hidden_act": "gelu"},
    **{"layer_norm_eps": 1e-7, "max_relative_positions": -1, "position_biased_input": False},
    **{"type_vocab_size": 0, "vocab_size": 128100, "initializer_range": 0.02},
}
DEBERTA_V2_XLARGE = {
    **DEBERTA_V3,
    **{"hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 24, "num_hidden_layers": 24},
    **{"attention_head_size": 64, "conv_kernel_size": 3, "conv_act": "gelu"},
}
DEBERTA_V3_CLASSIFIER = {
    **DEBERTA_V3,
    **{"architectures": ["DebertaV2ForSequenceClassification"], "pooler_dropout": 0, "pad_token_id": 0},
    **{"pooler_hidden_act": "gelu", "pooler_hidden_size": 768, "id2label": {"0": "a", "1": "b", "2": "c"}},
}
MODERNBERT = {
    **{"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "attention_bias": False},
    **{"attention_dropout": 0.0, "classifier_activation": "gelu", "classifier_bias": False},
    **{"classifier_dropout": 0.0, "classifier_pooling": "mean", "decoder_bias": True, "mlp_dropout": 0.0},
    **{"deterministic_flash_attn": False, "embedding_dropout": 0.0, "global_attn_every_n_layers": 3},
    **{"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "hidden_activation": "gelu"},
    **{"hidden_size": 768, "intermediate_size": 1152, "num_attention_heads": 12, "num_hidden_layers": 22},
    **{"initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "layer_norm_eps": 1e-5, "norm_eps": 1e-5},
    **{"local_attention": 128, "max_position_embeddings": 8192, "mlp_bias": False, "norm_bias": False},
    **{"gradient_checkpointing": False, "pad_token_id": 50283, "position_embedding_type": "absolute"},
    **{"reference_compile": True, "repad_logits_with_grad": False, "sparse_prediction": False},
    **{"sparse_pred_ignore_index": -100, "tie_word_embeddings": True, "vocab_size": 50368},
    **{"bos_token_id": 50281, "cls_token_id": 50281, "eos_token_id": 50282, "sep_token_id": 50282},
}
MPNET = {
    **{"architectures": ["MPNetForMaskedLM"], "model_type": "mpnet", "attention_probs_dropout_prob": 0.1},
    **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "hidden_act": "gelu"},
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    **{"hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-5},
    **{"max_position_embeddings": 514, "relative_attention_num_buckets": 32, "vocab_size": 30527},
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VIT, {"num_labels": 3, "image_size": (224, 224), "patch_size": (16, 16)}),
        (DINOV2, {"image_size": (518, 518), "num_register_tokens": 0, "use_mask_token": True}),
        (DEBERTA_V3, {"max_relative_positions": 512, "pos_att_type": ("p2c", "c2p"), "conv_kernel_size": 0}),
        (DEBERTA_V2_XLARGE, {"conv_kernel_size": 3, "conv_groups": 1, "conv_act": "gelu"}),
        (DEBERTA_V3_CLASSIFIER, {"num_labels": 3, "cls_dropout": 0.1, "pooler_dropout": 0}),
        (MODERNBERT, {"layer_types": (("full_attention", *["sliding_attention"] * 2) * 8)[:22]}),
        (MPNET, {"max_position_embeddings": 514, "tie_word_embeddings": True}),
    ],
    ids=["vit", "dinov2", "deberta-v3", "deberta-v2-xlarge", "deberta-v3-classifier", "modernbert", "mpnet"],
)
def test_every_attribute_is_known(config: dict[str, Any], expected: dict[str, Any]):
    family = family_of(config)
    settings = model_arguments(config, family.rules_for(family.architecture(config)))
    assert {name: settings[name] for name in expected} == expected
