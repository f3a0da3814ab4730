import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.models.part import Part
from jax_attn.models.token_mask import segment_positions
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled
from parity_tests.models.decoding import IDS, assert_decodes


class TestCausalLM(TwinContract):
    rows = ("causal-lm", "causal-lm-tied", "causal-lm-gemma2")
    rounds = drops = False  # its parts do
    elsewhere = ("causal-lm-tied", "causal-lm-gemma2")  # the families of decoders


def lm(row: str):
    twin = CATALOGUE[row]
    return Part(twin.where, **twin.arguments).build("jax_attn", rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@pytest.mark.parametrize(
    ("row", "padding"),
    [("causal-lm", "left"), pytest.param("causal-lm-tied", "right", marks=pytest.mark.slow)],
)
@jax.enable_x64(True)
def test_a_cache_changes_nothing(row, padding):
    assert_decodes(lm(row), padding)


@jax.enable_x64(True)
def test_a_tied_head_has_no_table_of_its_own():
    module = lm("causal-lm-tied")
    table = module.model.embeddings.token.embedding[...]
    logits, hidden = compiled(lambda ids: (module(ids), module.model(ids)))(IDS)
    assert_same(logits, hidden @ np.asarray(table).T)
    assert not [path for path, _ in nnx.to_flat_state(nnx.state(module.head))]


@jax.enable_x64(True)
def test_packed_texts_get_what_each_gets_alone():
    """Whatever stands before and behind them, with positions that are rotated."""
    module = lm("causal-lm")
    packed = compiled(lambda ids, segments: module(ids, segments < 3, segment_ids=segments))(
        np.concatenate([IDS[:1, :3], IDS[:1], IDS[1:2], IDS[:1, :2]], axis=1),
        np.repeat([[0, 1, 2, 3]], [3, IDS.shape[1], IDS.shape[1], 2], axis=1),
    )
    alone = compiled(module)(IDS[:2])
    assert_same(packed[0, 3:-2], alone.reshape(-1, alone.shape[-1]))


@jax.enable_x64(True)
def test_segments_stand_beside_no_cache():
    module = lm("causal-lm")
    ids = jnp.asarray(IDS)
    with pytest.raises(ValueError, match="segment_ids must be None where a cache is given"):
        module(ids, segment_ids=ids, cache=module.init_cache(len(IDS), 9))
    with pytest.raises(ValueError, match="segment_ids must have the shape of input_ids"):
        segment_positions(ids[:, 1:], ids.shape)
