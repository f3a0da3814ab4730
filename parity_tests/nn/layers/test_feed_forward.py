import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.feed_forward import ACTIVATIONS, FeedForward, gelu, gelu_tanh
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_batch_independent, assert_same, compiled, draw


class TestFeedForward(TwinContract):
    rows = ("feed-forward-gelu", "feed-forward-gelu-tanh", "feed-forward-relu")


@pytest.mark.parametrize("name", ACTIVATIONS)
@jax.enable_x64(True)
def test_activations_and_their_slopes_are_torchs(name):
    import torch

    from torch_ref.nn.layers.feed_forward import ACTIVATIONS as THEIRS

    grid = np.linspace(-40, 40, 1601)
    x = torch.tensor(grid, requires_grad=True)
    y = THEIRS[name](x)
    y.sum().backward()
    values, slopes = compiled(lambda x: jax.jvp(ACTIVATIONS[name], (x,), (jnp.ones_like(x),)))(grid)
    assert_same(values, y.detach())
    assert_same(slopes, x.grad)


@pytest.mark.parametrize("activation", [gelu, gelu_tanh])
def test_sixteen_bits_are_computed_in_thirty_two(activation):
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.linspace(-8, 8, 257).astype(dtype)
        assert activation(x).dtype == dtype
        np.testing.assert_array_equal(activation(x), activation(x.astype(jnp.float32)).astype(dtype))


def test_the_tail_of_the_tanh_form_keeps_its_digits():
    x = jnp.array([-3.0, -4.0, -5.0], jnp.float32)
    with jax.enable_x64(True):
        exact = gelu_tanh(x.astype(jnp.float64))
    # 1 + tanh(u) would lose all but the first.
    np.testing.assert_allclose(gelu_tanh(x), exact, rtol=3e-6)


@jax.enable_x64(True)
def test_each_token_goes_its_own_way():
    module, x = FeedForward(7, 29, rngs=nnx.Rngs(0), param_dtype=jnp.float64), draw(3, 5, 7)
    together = assert_batch_independent(module, x)
    assert_same(compiled(module)(np.asarray(x)[:, 2:3]), together[:, 2:3])


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match=r"activation must be one of gelu, gelu_tanh, .*, relu, got 'swish'"):
        FeedForward(7, 29, "swish", rngs=nnx.Rngs(0))
    module = FeedForward(7, 29, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        module(jnp.ones((5, 8)))
