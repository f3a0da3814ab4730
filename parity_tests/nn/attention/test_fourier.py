import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.nn.attention.fourier import FourierMixing
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.nn.attention.references import assert_equals_reference


class TestFourierMixing(TwinContract):
    rows = ("fourier-mixing",)


@jax.enable_x64(True)
def test_it_is_fnets():
    from transformers.models.fnet.configuration_fnet import FNetConfig
    from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

    reference = FNetBasicFourierTransform(FNetConfig(hidden_size=13))
    assert_equals_reference(
        FourierMixing(13), reference, dict, draw(3, 7, 13), lambda theirs, x: theirs(x)[0]
    )


@jax.enable_x64(True)
def test_it_is_the_product_with_both_matrices_of_the_transform():
    x = draw(3, 7, 13)
    tokens, features = (np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) for n in (7, 13))
    mixed = compiled(FourierMixing(13))
    assert_same(mixed(x), (tokens @ np.asarray(x) @ features).real)
    assert_same(mixed(x[1]), mixed(x)[1])


def test_sixteen_bits_are_transformed_in_thirty_two():
    x = draw(3, 7, 13).astype(jnp.bfloat16)
    mixed = FourierMixing(13)
    assert mixed(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed(x), mixed(x.astype(jnp.float32)).astype(jnp.bfloat16))
    assert FourierMixing(13, dtype=jnp.float32)(x).dtype == jnp.float32


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        FourierMixing(0)
    with pytest.raises(ValueError, match=r"x must have shape \(t, 13\) or \(b, t, 13\), got \(5, 12\)"):
        FourierMixing(13)(jnp.ones((5, 12)))
