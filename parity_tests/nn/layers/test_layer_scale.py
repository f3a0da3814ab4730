import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.cases import token_cases
from jax_attn.nn.layers.layer_scale import LayerScale
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestLayerScale(TwinContract):
    rows = ("layer-scale",)


def test_that_of_dinov2():
    from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
    from transformers.models.dinov2.modeling_dinov2 import Dinov2LayerScale

    ours = LayerScale(7, initial=0.5, rngs=nnx.Rngs(0))
    theirs = Dinov2LayerScale(Dinov2Config(hidden_size=7, num_attention_heads=1, layerscale_value=0.5))
    np.testing.assert_array_equal(ours.scale[...], theirs.lambda1.detach())
    assert_equals(ours, theirs, token_cases(7)[:1], names=[("weight", "lambda1")])


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        LayerScale(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        LayerScale(7, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
