"""DINOv2 beside transformers', with registers and without."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.parity.cases import Case
from parity_tests.weights.families.test_vit import ATTENTION_IN_MEMORY
from parity_tests.weights.families.transformers_models import EXACT, TRAINING, assert_beside, built

IN_MEMORY = [
    *ATTENTION_IN_MEMORY,
    (r"\bmlp\.weights_in\.(\w+)\[0\]$", r"mlp.gate_proj.\1"),
    (r"\bmlp\.weights_in\.(\w+)\[1\]$", r"mlp.up_proj.\1"),
    (r"\bmlp\.weights_out\.", "mlp.down_proj."),
]
SIZES = {
    "hidden_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 3,
    "image_size": 6,
    "patch_size": 2,
    "num_channels": 2,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-3,
    "layerscale_value": 0.7,
}


def theirs(kind: str, **options):
    if "Registers" in kind:
        from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as models
        from transformers.models.dinov2_with_registers.configuration_dinov2_with_registers import (
            Dinov2WithRegistersConfig as Config,
        )
    else:
        from transformers.models.dinov2 import modeling_dinov2 as models
        from transformers.models.dinov2.configuration_dinov2 import Dinov2Config as Config

    return getattr(models, kind)(Config(**{**SIZES, **options}))


def images(*size: int, **hidden) -> list[Case]:
    """Of the size that the positions are for, or of another one, over which those are stretched."""
    pixels = np.random.default_rng(0).standard_normal((3, 2, *(size or (6, 6))))
    return [Case("images", (), {"pixel_values": pixels, **hidden})]


def test_transformers_computes_the_same_of_hidden_patches(tmp_path):
    """The gated feed-forward, no biases of the projections, a mask token, and images that are larger and oblong."""
    hidden = np.random.default_rng(1).random((3, 20)) < 0.4
    model = theirs("Dinov2Model", use_swiglu_ffn=True, qkv_bias=False)
    assert_beside(
        model,
        images(8, 11, bool_masked_pos=hidden),
        tmp_path,
        outputs=("last_hidden_state", "pooler_output"),
        names=IN_MEMORY,
        lanes=EXACT,
        scan=True,
    )


@pytest.mark.slow
def test_transformers_trains_the_same_with_registers(tmp_path):
    options = {"num_register_tokens": 3, "hidden_act": "gelu_new", "num_labels": 5, "num_hidden_layers": 1}
    model = theirs("Dinov2WithRegistersForImageClassification", **options)
    assert_beside(model, images(4, 8), tmp_path, outputs=("logits",), names=IN_MEMORY, lanes=TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Dinov2ForImageClassification", {"use_mask_token": False, "hidden_act": "relu"}),
        ("Dinov2WithRegistersForImageClassification", {"use_swiglu_ffn": True, "num_register_tokens": 1}),
    ],
)
def test_transformers_computes_the_same_otherwise(kind, options, tmp_path):
    assert_beside(theirs(kind, **options), images(), tmp_path, outputs=("logits",), names=IN_MEMORY)


def test_images_without_a_patch_are_refused():
    module = built({"model_type": "dinov2", **SIZES})
    for shape in ((1, 2, 1, 8), (1, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"pixel_values must have shape \(b, 2, height, width\), got"):
            nnx.eval_shape(lambda shape=shape: module(jnp.zeros(shape)))


def test_stochastic_depth_is_that_of_the_config():
    config = {"model_type": "dinov2", **SIZES, "drop_path_rate": 0.2}
    module = built(config)
    assert [layer.drop_path.rate for layer in module.encoder.layers] == [0.2, 0.2]
