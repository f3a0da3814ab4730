import jax
import numpy as np
import pytest

from jax_attn.catalogue import CATALOGUE
from jax_attn.models.task_model import TaskModel
from parity_tests.contract import TwinContract

IDS = np.random.default_rng(0).integers(31, size=(3, 5))


class TestTaskModel(TwinContract):
    rows = ("task-model", "task-model-text", "task-model-tied")
    rounds = False  # the sequence classifier, which is one


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
    with pytest.raises(ValueError, match="reads must be one of tokens, text, tokens_and_table, got 'pixels'"):
        TaskModel(None, None, "pixels")
