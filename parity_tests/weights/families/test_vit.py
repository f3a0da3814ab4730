"""ViT beside transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.parity.cases import Case
from parity_tests.weights.families.transformers_models import EXACT, TRAINING, assert_beside, built

# What transformers 5 calls in memory what it writes under the names of the first release.
ATTENTION_IN_MEMORY = [
    *(
        (rf"\battention\.attention\.{name}\.", f"attention.{name[0]}_proj.")
        for name in ("query", "key", "value")
    ),
    (r"\battention\.output\.dense\.", "attention.o_proj."),
]
IN_MEMORY = [
    (r"\bencoder\.layer\.", "layers."),
    *ATTENTION_IN_MEMORY,
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"\boutput\.dense\.", "mlp.fc2."),
]
SIZES = {
    "hidden_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 19,
    "image_size": (6, 9),
    "patch_size": (2, 3),
    "num_channels": 2,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-3,
}


def images(size) -> list[Case]:
    height, width = (size, size) if isinstance(size, int) else size
    pixels = np.random.default_rng(0).standard_normal((3, 2, height, width))
    return [Case("images", (), {"pixel_values": pixels})]


def theirs(kind: str, **options):
    from transformers.models.vit import modeling_vit
    from transformers.models.vit.configuration_vit import ViTConfig

    return getattr(modeling_vit, kind)(ViTConfig(**{**SIZES, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        pytest.param(
            "ViTModel",
            ("last_hidden_state", "pooler_output"),
            {"hidden_act": "gelu_new", "pooler_act": "relu"},
            {"lanes": EXACT, "scan": True},
            marks=pytest.mark.slow,
        ),
        (
            "ViTForImageClassification",
            ("logits",),
            {"qkv_bias": False, "num_labels": 5, "num_hidden_layers": 1, "image_size": 6, "patch_size": 3},
            {"lanes": TRAINING},
        ),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    model = theirs(kind, **options)
    cases = images(model.config.image_size)
    module = assert_beside(model, cases, tmp_path, outputs=outputs, names=IN_MEMORY, **ours)
    if "scan" in ours:
        assert module.encoder.stacked == ("layers",)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        ({"pooler_output_size": 7}, "pooler_output_size=7 is not supported"),
        ({"image_size": "big"}, "image_size='big' must be of type tuple"),
        ({"image_size": [8, 7], "patch_size": 4}, "image_size must be divisible by patch_size"),
        ({"interpolate": True}, "interpolate=True is not known here"),
    ):
        with pytest.raises(ValueError, match=message):
            built({"model_type": "vit", **SIZES, **options})


def test_images_of_another_size_are_refused():
    module = built({"model_type": "vit", **SIZES})
    for shape, message in (
        ((1, 2, 9, 9), r"pixel_values must have shape \(b, 2, 6, 9\), got \(1, 2, 9, 9\)"),
        ((2, 9), r"pixel_values must have shape \(b, 2, 6, 9\), got \(2, 9\)"),
    ):
        with pytest.raises(ValueError, match=message):
            nnx.eval_shape(lambda shape=shape: module(jnp.zeros(shape)))
