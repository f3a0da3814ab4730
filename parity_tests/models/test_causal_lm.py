import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.catalogue import CATALOGUE
from parity_tests.contract import TwinContract
from parity_tests.models.decoding import IDS, assert_decodes


class TestCausalLM(TwinContract):
    rows = ("causal-lm", "causal-lm-tied")


def lm(row: str):
    module = CATALOGUE[row].flax()
    jax.tree.map(lambda leaf: leaf, module)
    return module


@pytest.mark.parametrize(("row", "padding"), [("causal-lm", "left"), ("causal-lm-tied", "right")])
@jax.enable_x64(True)
def test_a_cache_changes_nothing(row, padding):
    assert_decodes(CATALOGUE[row].flax(param_dtype=jnp.float64), padding)


def test_a_tied_head_has_no_table_of_its_own():
    module = CATALOGUE["causal-lm-tied"].flax()
    hidden = module.model(IDS)
    table = module.model.embeddings.token.embedding[...]
    np.testing.assert_allclose(module.logits(hidden), hidden @ table.T, rtol=1e-5, atol=1e-5)
