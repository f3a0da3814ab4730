import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.image_classification_head import ImageClassificationHead
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, draw


class TestImageClassificationHead(TwinContract):
    rows = ("image-classification-head",)


@jax.enable_x64(True)
def test_registers_are_not_read_and_the_order_of_patches_does_not_matter():
    module, x = (
        ImageClassificationHead(7, 5, num_registers=2, rngs=nnx.Rngs(0), param_dtype=jnp.float64),
        draw(3, 9, 7),
    )
    changed = np.asarray(x).copy()
    changed[:, 1:3] = 1e3
    changed[:, 3:] = changed[:, :2:-1]
    assert_same(module(jnp.asarray(changed)), module(x))


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got num_classes=0"):
        ImageClassificationHead(7, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="x must have more than 3 vectors, got 3"):
        ImageClassificationHead(7, 5, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 7)))
