import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue.cases import batched_id_cases
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.primitives import RMSNorm
from jax_attn.parity import tolerances
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import compiled
from parity_tests.references import assert_equals


class TestEmbeddings(TwinContract):
    rows = (
        "embeddings",
        "embeddings-sinusoidal",
        "embeddings-factorised",
        "embeddings-scaled",
        "embeddings-counted",
    )


def embeddings(**options) -> Embeddings:
    return Embeddings(31, 7, **{"max_positions": 11, "num_segments": 3, **options}, rngs=nnx.Rngs(0))


def test_those_of_albert():
    """Narrow tables, and the layer that widens them, which stands in ALBERT's encoder."""
    from transformers.models.albert.configuration_albert import AlbertConfig
    from transformers.models.albert.modeling_albert import AlbertEmbeddings, AlbertTransformer

    config = AlbertConfig(
        vocab_size=31,
        embedding_size=5,
        hidden_size=7,
        num_attention_heads=1,
        intermediate_size=3,
        max_position_embeddings=11,
        type_vocab_size=3,
    )
    theirs = torch.nn.Sequential(
        AlbertEmbeddings(config), AlbertTransformer(config).embedding_hidden_mapping_in
    )
    names = [
        (r"^projection\.", "1."),
        (r"^token\.", "0.word_embeddings."),
        (r"^position\.", "0.position_embeddings."),
        (r"^segment\.", "0.token_type_embeddings."),
        (r"^norm\.", "0.LayerNorm."),
    ]
    ours = embeddings(embedding_dim=5, padding_idx=config.pad_token_id)
    assert_equals(ours, theirs, batched_id_cases(31), names=names)


BARE = {"max_positions": None, "num_segments": 0, "positions": None, "norm": None}


def test_those_of_gemma_are_scaled():
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    theirs = Gemma3TextScaledWordEmbedding(31, 7, padding_idx=0, embed_scale=7**0.5)
    ours = embeddings(**BARE, scaled=True, padding_idx=0)
    assert_equals(ours, theirs, batched_id_cases(31), names=[(r"^token\.", "")])


def test_parts_are_left_out_or_brought_along():
    rngs, ids = nnx.Rngs(1), jnp.arange(10).reshape(2, 5)
    bare = embeddings(**BARE)
    assert [name for name, _ in nnx.to_flat_state(nnx.state(bare, nnx.Param))] == [("token", "embedding")]
    np.testing.assert_array_equal(bare(ids), bare.token.embedding[...][ids])
    own = embeddings(**BARE | {"positions": LearnedPositions(11, 7, rngs=rngs)})
    own.token.embedding.set_value(bare.token.embedding[...])
    np.testing.assert_array_equal(own(ids), own.position(bare(ids)))
    assert isinstance(embeddings(norm="rms").norm, RMSNorm)


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
    with pytest.raises(ValueError, match=r"norm must be one of layer, .*, got 'batch'"):
        embeddings(norm="batch")
    with pytest.raises(
        ValueError, match="max_positions must be an integer with positions='learned', got None"
    ):
        embeddings(max_positions=None)
    with pytest.raises(ValueError, match="padding_idx must be an integer with skip_padding=True, got None"):
        embeddings(skip_padding=True)


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
    with pytest.raises(
        ValueError, match="segment_ids must be None, for there are no segments: num_segments=0"
    ):
        embeddings(num_segments=0)(ids, ids)
