import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.drop_path import DropPath
from parity_tests.contract import TwinContract


class TestDropPath(TwinContract):
    rows = ("drop-path",)


def test_a_sequence_goes_whole_or_not_at_all():
    module, x = DropPath(0.2, rngs=nnx.Rngs(0)), jnp.arange(1.0, 6001.0).reshape(1000, 3, 2)
    output = np.asarray(module(x))
    kept = output[:, 0, 0] != 0
    np.testing.assert_allclose(output, np.where(kept[:, None, None], x / 0.8, 0), rtol=1e-6)
    assert 0.75 < kept.mean() < 0.85  # four standard deviations
    assert np.any(np.asarray(module(x)[:, 0, 0] != 0) != kept), "the same draw twice"
    one = np.asarray(module(x[0]))
    assert one.shape == (3, 2)
    assert np.all(one == 0) or np.all(one != 0)
    module.eval()
    np.testing.assert_array_equal(module(x), x)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match=r"dropout must be a probability between 0 and 1, got dropout=1.5"):
        DropPath(1.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs must have shape \(t, d\) or \(b, t, d\), got \(3,\)"):
        DropPath(0.2, rngs=nnx.Rngs(0))(jnp.ones(3))
