import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.parity import tolerances
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import compiled


class TestEmbeddings(TwinContract):
    rows = ("embeddings", "embeddings-sinusoidal")


def embeddings(**options) -> Embeddings:
    return Embeddings(31, 7, 11, num_segments=3, rngs=nnx.Rngs(0), **options)


def test_the_sum_is_normalised():
    vectors = compiled(embeddings())(jnp.arange(5))
    np.testing.assert_allclose(vectors.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(vectors.std(-1), 1, rtol=tolerances.SAME_FLOAT32)


def test_without_segments_all_is_segment_0():
    module, ids = embeddings(), jnp.arange(10).reshape(2, 5)
    call = compiled(module)
    np.testing.assert_array_equal(call(ids), call(ids, jnp.zeros_like(ids)))
    assert np.abs(call(ids) - call(ids, jnp.ones_like(ids))).min() > 0


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_places_can_be_told_apart(positions):
    vectors = compiled(embeddings(positions=positions))(jnp.full(11, 3))
    assert len(np.unique(vectors.round(3), axis=0)) == 11


@pytest.mark.parametrize("ids", [[1, 31, 2], [1, 2, -40]])
def test_an_unknown_id_is_never_taken_for_another(ids):
    unknown = np.array(ids) != np.clip(ids, 0, 30)
    vectors = jax.jit(lambda ids: embeddings()(ids))(jnp.array(ids))
    np.testing.assert_array_equal(np.isnan(vectors).all(-1), unknown)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="positions must be one of learned, sinusoidal, got 'rotary'"):
        embeddings(positions="rotary")


def test_bad_input_is_refused():
    module, ids = embeddings(), jnp.zeros((3, 5), jnp.int32)
    for call, message in (
        ((jnp.zeros((3, 5)),), "token_ids must be integers, got float32"),
        ((ids == 0,), "token_ids must be integers, got bool"),
        (
            (jnp.zeros((2, 3, 5), jnp.int32),),
            r"token_ids must have shape \(t,\) or \(b, t\), got \(2, 3, 5\)",
        ),
        ((jnp.zeros((3, 12), jnp.int32),), "the number of tokens must be at most max_positions=11, got 12"),
        ((ids, ids[:2]), r"segment_ids must have shape \(3, 5\), got \(2, 5\)"),
        ((ids, ids * 1.0), "segment_ids must be integers, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
