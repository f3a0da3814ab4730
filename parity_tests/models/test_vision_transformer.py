import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from parity_tests.contract import TwinContract


class TestVisionTransformer(TwinContract):
    rows = ("vision-transformer",)
    rounds = drops = False  # its layers
    elsewhere = ("vision-transformer",)  # ViT


def test_images_are_as_image_processors_give_them():
    """Channels first: the first patch is the upper left corner of every channel."""
    module = CATALOGUE["vision-transformer"].flax()
    module.eval()
    images = np.zeros((2, 3, 4, 6), np.float32)
    images[1, :, :2, :3] = 1.0
    first, second = np.asarray(module.embeddings(jnp.moveaxis(images, 1, -1)))
    # Behind the class token and two registers.
    np.testing.assert_array_equal(np.flatnonzero((first != second).any(-1)), [3])
    hidden = jax.jit(lambda images: module(images).last_hidden_state)(images)
    assert hidden.shape == (2, 7, 26)


def test_bad_images_are_refused():
    module = CATALOGUE["vision-transformer"].flax()
    for shape in ((2, 4, 6, 3), (3, 4, 5), (4, 6)):
        with pytest.raises(ValueError, match=r"pixel_values must have shape \(b, 3, 4, 6\), got"):
            nnx.eval_shape(lambda shape=shape: module(jnp.zeros(shape)))
