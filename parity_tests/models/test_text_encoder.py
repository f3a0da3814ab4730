import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.models import text_encoder
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled


class TestTextEncoder(TwinContract):
    rows = ("text-encoder",)
    rounds = drops = False  # BERT, which is one
    elsewhere = ("text-encoder",)  # so is what it computes


IDS = np.random.default_rng(0).integers(31, size=(3, 5))


def test_the_text_is_what_the_pooler_makes_of_its_tokens():
    module = CATALOGUE["text-encoder"].flax()
    module.eval()
    tokens, text, pooled = jax.jit(lambda ids: (*(out := module(ids)), module.pooler(out[0])))(IDS)
    np.testing.assert_array_equal(text, pooled)
    assert tokens.shape == (3, 5, 26)


def test_without_a_pooler_there_is_no_vector_of_the_text():
    module = text_encoder(pooler=False).build("jax_attn", rngs=nnx.Rngs(0))
    module.eval()
    assert jax.eval_shape(module, IDS).pooler_output is None


@jax.enable_x64(True)
def test_packed_texts_get_what_each_gets_alone():
    """And there is no one vector of a row."""
    module = text_encoder().build("jax_attn", rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    module.eval()
    row = np.concatenate([IDS[:1, :3], IDS[1:2], [[0]]], axis=1)
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 0]])
    packed, _ = compiled(lambda ids, segments: module(ids, segments != 0, segment_ids=segments))(
        row, segments
    )
    alone = compiled(lambda ids: module(ids).last_hidden_state)
    assert_same(packed[:, :3], alone(IDS[:1, :3]))
    assert_same(packed[:, 3:8], alone(IDS[1:2]))
    assert jax.eval_shape(lambda ids: module(ids, segment_ids=ids), row).pooler_output is None


def test_bad_input_is_refused():
    module = CATALOGUE["text-encoder"].flax()
    for arrays, message in (
        ((IDS.astype(np.float32),), "token_ids must be integers, got float32"),
        ((IDS, IDS[:, :4]), "attention_mask must have the shape of input_ids"),
        ((IDS, None, IDS[0]), r"segment_ids must have shape \(3, 5\), got \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*arrays)
