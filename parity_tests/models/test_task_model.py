import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.models import text_encoder
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.parity.tolerances import SAME_FLOAT32
from parity_tests.contract import TwinContract

IDS = np.random.default_rng(0).integers(31, size=(3, 5))


class TestTaskModel(TwinContract):
    rows = ("task-model", "task-model-text", "task-model-tied", "task-model-last")
    rounds = drops = False  # the sequence classifier, which is one
    elsewhere = (
        "task-model",
        "task-model-text",
        "task-model-tied",
        "task-model-last",
    )  # the families of encoders


@pytest.mark.parametrize("row", ["task-model", "task-model-text", "task-model-tied"])
def test_the_head_reads_what_it_says(row):
    module = CATALOGUE[row].flax()
    module.eval()

    def by_hand(ids):
        tokens, text = module.model(ids)
        table = module.model.embeddings.token.embedding[...]
        given = {"tokens": (tokens,), "text": (text,), "tokens_and_table": (tokens, table)}
        return module.head(*given[module.reads])

    np.testing.assert_array_equal(*jax.jit(lambda ids: (module(ids), by_hand(ids)))(IDS))


def test_bad_reads_are_refused():
    with pytest.raises(
        ValueError, match="reads must be one of tokens, text, tokens_and_table, tokens_and_mask, got 'px'"
    ):
        TaskModel(jnp.tanh, jnp.tanh, "px")


def test_a_text_that_no_pooler_read_is_refused():
    def task(pooler):
        head = Part("nn.primitives:Linear", in_features=26, out_features=5)
        part = Part(TaskModel, model=text_encoder(pooler), head=head, reads="text")
        return part.build("jax_attn", rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match=r'reads="text" needs a model with a pooler, got one without'):
        task(False)
    ids = np.array([[5, 6, 7]])
    with pytest.raises(ValueError, match=r'segment_ids must be None with reads="text"'):
        task(True)(ids, segment_ids=ids)


def test_the_last_token_is_told_by_the_padding_token_or_by_the_mask():
    ids = np.array([[5, 6, 7, 0, 0], [0, 0, 5, 6, 7], [5, 6, 7, 8, 9]])
    by_token, by_mask = (
        Part(twin.where, **{**twin.arguments, "padding_idx": padding}).build("jax_attn", rngs=nnx.Rngs(0))
        for twin in [CATALOGUE["task-model-last"]]
        for padding in (0, None)
    )
    last = [2, 4, 4]

    def run(ids, mask):
        scores = by_token.head.linear(by_token.model(ids, mask))
        return by_token(ids, mask), by_mask(ids, mask), scores[np.arange(3), np.array(last)]

    first, second, expected = jax.jit(run)(ids, ids != 0)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, expected, atol=SAME_FLOAT32)
