import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.cases import grid_cases
from jax_attn.nn.layers.patch_embeddings import PatchEmbeddings
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestPatchEmbeddings(TwinContract):
    rows = (
        "patch-embeddings",
        "patch-embeddings-alone",
        "patch-embeddings-registers",
        "patch-embeddings-resized",
    )


def channels_first(module, images):
    return module(images.movedim(-1, -3))


def test_those_of_vit():
    from transformers.models.vit.configuration_vit import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    config = ViTConfig(image_size=10, patch_size=5, num_channels=3, hidden_size=7, num_attention_heads=1)
    names = [
        (r"^projection\.", "patch_embeddings.projection."),
        (r"^class_token$", "cls_token"),
        (r"^position$", "position_embeddings"),
    ]
    ours = PatchEmbeddings(10, 5, 3, 7, rngs=nnx.Rngs(0))
    cases = grid_cases((10, 10, 3))[:1]
    assert_equals(ours, ViTEmbeddings(config), cases, names=names, call_torch=channels_first)


def test_a_change_of_one_patch_stays_in_it():
    module = PatchEmbeddings((4, 6), 2, 1, 7, rngs=nnx.Rngs(0))
    image = jnp.zeros((4, 6, 1))
    changed = np.asarray(module(image.at[3, 2].set(1.0)) != module(image)).any(-1)
    # The second row's second patch of three, behind the class token and the first row.
    np.testing.assert_array_equal(np.flatnonzero(changed), [5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ((10, 21), (5, 6), 3, 7),
            "image_size must be divisible by patch_size, got image_size=21 and patch_size=6",
        ),
        ((0, 5, 3, 7), "image_size must be at least 1, got image_size=0"),
        (((1, 2, 3), 5, 3, 7), r"image_size must be an integer or a pair of integers, got \(1, 2, 3\)"),
        ((10, 5, 3, 7, True, 0.0, True, 0, False, "nearest"), "resize must be one of bicubic, .*'nearest'"),
        ((10, 5, 0, 7), "num_channels must be at least 1, got num_channels=0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchEmbeddings(*arguments, rngs=nnx.Rngs(0))


def test_bad_images_are_refused():
    module = PatchEmbeddings(10, 5, 3, 7, rngs=nnx.Rngs(0))
    message = r"images must have shape \(10, 10, 3\) or \(b, 10, 10, 3\), got \(2, 3, 10, 10\)"
    with pytest.raises(ValueError, match=message):
        module(jnp.ones((2, 3, 10, 10)))
    module = PatchEmbeddings(10, 5, 3, 7, resize="bicubic", rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"images must have shape \(height, width, 3\) or .*, got \(2, 3, 10, 10\)"
    ):
        module(jnp.ones((2, 3, 10, 10)))


def test_patches_are_hidden_by_a_mask_token_only():
    images, hidden = jnp.ones((2, 10, 10, 3)), jnp.zeros((2, 4), bool)
    with pytest.raises(ValueError, match="hidden must be None, for there is no mask token"):
        PatchEmbeddings(10, 5, 3, 7, rngs=nnx.Rngs(0))(images, hidden)


def test_a_bad_mask_of_patches_is_refused():
    images = jnp.ones((2, 10, 10, 3))
    module = PatchEmbeddings(10, 5, 3, 7, mask_token=True, rngs=nnx.Rngs(0))
    for hidden in (jnp.zeros((2, 5), bool), jnp.zeros((2, 4), int)):
        with pytest.raises(ValueError, match=r"hidden must (have shape \(2, 4\)|be a boolean)"):
            module(images, hidden)
