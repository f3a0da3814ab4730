import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.models.part import Part
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.primitives import Dropout, Linear
from jax_attn.weights.state_dict import load_state_dict, state_dict


def stack() -> Part:
    layer = Part(Linear, in_features=3, out_features=3)
    return Part(Stack, layers=[layer, layer], norm=Part("nn.primitives:LayerNorm", normalized_shape=3))


def test_both_frameworks_build_the_same():
    flax = stack().build("jax_attn", rngs=nnx.Rngs(0))
    twin = stack().build("torch_ref")
    twin.load_state_dict(state_dict(flax))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(flax(jnp.asarray(x)), expected, atol=1e-6)
    load_state_dict(flax, twin.state_dict())


def test_nothing_is_shared_between_two_places_or_two_models():
    part = stack()
    one, other = (part.build("jax_attn", rngs=nnx.Rngs(0)) for _ in range(2))
    first, second = one.layers
    assert first is not second
    assert (first.kernel[...] != second.kernel[...]).any(), "each place has its own draws"
    assert other.layers[0] is not first


def test_own_arguments_go_to_those_classes_that_take_them():
    part = Part(Stack, layers=[Part(Dropout, p=0.25), Part(Linear, in_features=3, out_features=3)])
    dropout, linear = part.build("jax_attn", rngs=nnx.Rngs(0), param_dtype=np.float16).layers
    assert dropout.rate == 0.25
    assert linear.kernel[...].dtype == np.float16


def test_a_class_that_one_side_lacks_is_refused():
    with pytest.raises(AttributeError, match="Novelty"):
        Part("nn.primitives:Novelty").build("jax_attn")
