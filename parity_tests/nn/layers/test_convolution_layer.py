import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.convolution_layer import ConvolutionLayer
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import draw


class TestConvolutionLayer(TwinContract):
    rows = ("convolution-layer",)
    rounds = drops = False  # its layer


class Nothing(nnx.Module):
    """A layer that adds nothing."""

    def __call__(self, x, mask=None):
        return jnp.zeros_like(x)


def layer(**options) -> ConvolutionLayer:
    return ConvolutionLayer(Nothing(), 8, **{"kernel_size": 3, **options}, rngs=nnx.Rngs(0))


def test_a_token_sees_its_neighbours_and_no_padding():
    module, x = layer(), draw(1, 7, 8)
    moved = x.at[0, 3].add(1.0).at[0, 6].add(1.0)
    mask = jnp.arange(7)[None] < 6
    changed = (np.asarray(module(moved, mask)) != np.asarray(module(x, mask))).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(changed[0]), [2, 3, 4])


def test_bad_arguments_and_masks_are_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        layer(kernel_size=4)
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'tan'"):
        layer(activation="tan")
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 7\), got \(2, 7, 7\)"):
        layer()(jnp.ones((2, 7, 8)), jnp.ones((2, 7, 7), bool))
