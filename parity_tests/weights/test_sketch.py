import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.primitives import Buffer, Dropout, Linear
from jax_attn.weights.sketch import Sketch, without_weights


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = Linear(3, 5, rngs=rngs)
        self.dropout = Dropout(0.5, rngs=rngs)
        self.table = Buffer(jnp.arange(4))
        self.rngs = rngs


def test_buffers_are_computed_and_weights_are_not():
    module = without_weights(Net)
    assert isinstance(module.linear.kernel.get_value(), jax.ShapeDtypeStruct)
    np.testing.assert_array_equal(module.table[...], np.arange(4))


def test_what_is_asked_for_is_what_the_constructor_makes():
    """Also where random numbers have got to: what is drawn next is the same."""
    sketch, built = Sketch(Net, seed=3), Net(nnx.Rngs(3))
    nnx.update(sketch.module, sketch.compute(lambda path, leaf: True))
    ours, theirs = (jax.tree.leaves_with_path(nnx.state(module)) for module in (sketch.module, built))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, made), (_, expected) in zip(ours, theirs, strict=True):
        assert made.dtype == expected.dtype, path
        if jnp.issubdtype(made.dtype, jax.dtypes.prng_key):
            made, expected = map(jax.random.key_data, (made, expected))
        np.testing.assert_array_equal(made, expected, err_msg=str(path))
    assert jax.random.bits(sketch.module.rngs()) == jax.random.bits(built.rngs())
