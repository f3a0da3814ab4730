import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_attn.functional.activations import ACTIVATIONS, gelu, gelu_tanh
from parity_tests.from_scratch.properties import assert_same
from torch_ref.nn.layers.feed_forward import ACTIVATIONS as TWINS

IN_FLOAT32 = sorted(ACTIVATIONS.keys() - {"relu", "relu2", "relu6", "linear"})


@pytest.mark.parametrize("name", ACTIVATIONS)
@jax.enable_x64(True)
def test_values_and_slopes_are_those_of_torch_and_transformers(name):
    from transformers.activations import ACT2FN

    grid = np.linspace(-40, 40, 1601)
    references = [TWINS[name], *([ACT2FN[name]] if name in ACT2FN else [])]
    assert len(references) == 2 or name == "gelu_tanh"  # our own name
    y, slopes = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(jnp.asarray(grid))
    for reference in references:
        x = torch.tensor(grid, requires_grad=True)
        expected = reference(x)
        expected.sum().backward()
        assert_same(y, expected.detach())
        assert_same(slopes, x.grad)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_sixteen_bits_are_computed_in_thirty_two(name):
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.linspace(-8, 8, 257).astype(dtype)
        y = ACTIVATIONS[name](x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, ACTIVATIONS[name](x.astype(jnp.float32)).astype(dtype))


def test_what_is_not_a_number_stays_so():
    assert [name for name, function in ACTIVATIONS.items() if not np.isnan(function(jnp.array(np.nan)))] == []


def test_gelu_and_its_tanh_form_are_apart():
    x = jnp.linspace(-8, 8, 257)
    assert 4e-4 < np.abs(gelu(x) - gelu_tanh(x)).max() < 5e-4


def test_the_tail_of_the_tanh_form_keeps_its_digits():
    x = jnp.array([-3.0, -4.0, -5.0], jnp.float32)
    with jax.enable_x64(True):
        exact = gelu_tanh(x.astype(jnp.float64))
    # 1 + tanh(u) would lose all but the first.
    np.testing.assert_allclose(gelu_tanh(x), exact, rtol=3e-6)
