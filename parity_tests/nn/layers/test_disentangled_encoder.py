import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from parity_tests.contract import TwinContract


class TestDisentangledEncoder(TwinContract):
    rows = ("disentangled-encoder",)
    rounds = drops = False  # its attention
    elsewhere = ("disentangled-encoder",)  # DeBERTa


def test_a_table_of_another_span_is_refused():
    module = CATALOGUE["disentangled-encoder"].flax()
    module.relative = None
    with pytest.raises(ValueError, match=r"relative must have shape \(8, 26\), got None"):
        nnx.eval_shape(lambda: module(jnp.zeros((2, 5, 26))))
