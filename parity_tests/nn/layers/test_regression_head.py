import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.regression_head import RegressionHead
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import draw


class TestRegressionHead(TwinContract):
    rows = ("regression-head",)


def test_it_is_a_classification_of_one_class():
    options = {"pooling": "max", "dense": True, "activation": "gelu"}
    x = draw(3, 5, 7).astype(jnp.float32)
    ours = RegressionHead(7, **options, rngs=nnx.Rngs(0))
    other = ClassificationHead(7, 1, **options, rngs=nnx.Rngs(0))
    assert ours(x).shape == (3,)
    assert ours(x[0]).shape == ()
    np.testing.assert_array_equal(ours(x)[:, None], other(x))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="pooling must be one of first, last, mean, max, got 'cls'"):
        RegressionHead(7, pooling="cls", rngs=nnx.Rngs(0))
