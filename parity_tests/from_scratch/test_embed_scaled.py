import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.embed_scaled import EmbedScaledSelfAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestEmbedScaled(TwinContract):
    rows = ("embed-scaled",)


def embed_scaled(embed_dim: int) -> EmbedScaledSelfAttention:
    return EmbedScaledSelfAttention(embed_dim, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@jax.enable_x64(True)
def test_the_scale_by_hand():
    module = embed_scaled(4)
    for projection in (module.query, module.key, module.value):
        projection.kernel[...] = jnp.eye(4)
        projection.bias[...] = jnp.zeros(4)
    # scores of the first token: (2 ln 3) / sqrt(4) with itself, 0 with the other
    x = jnp.array([[(2 * np.log(3)) ** 0.5, 0, 0, 0], [0, 1.0, 0, 0]])
    assert_same(compiled(module)(x)[0], [0.75 * x[0, 0], 0.25, 0, 0])


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = embed_scaled(7), draw(batch, tokens, 7)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        EmbedScaledSelfAttention(0, rngs=nnx.Rngs(0))
    module = EmbedScaledSelfAttention(7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
