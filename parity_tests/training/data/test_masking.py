import numpy as np
import pytest

from jax_attn.training.data import (
    IGNORED,
    MaskedBatches,
    OrderedBatches,
    PaddedExamples,
    ShuffledBatches,
    packed_examples,
)

SPECIAL, MASK, VOCABULARY = [0, 2, 3, 4], 4, 50
RANDOM = np.random.default_rng(0)
DOCUMENTS = [np.array([2, *RANDOM.integers(5, VOCABULARY, RANDOM.integers(1, 90)), 3]) for _ in range(300)]
PLAIN = ShuffledBatches(packed_examples(DOCUMENTS, 64, next_token=False), 32, 0)


@pytest.fixture(scope="module")
def masked():
    return MaskedBatches(PLAIN, MASK, SPECIAL, VOCABULARY, seed=0)


def test_labels_are_what_was_hidden(masked):
    before, after = PLAIN[3], masked[3]
    chosen = after["labels"] != IGNORED
    np.testing.assert_array_equal(after["labels"][chosen], before["input_ids"][chosen])
    np.testing.assert_array_equal(after["input_ids"][~chosen], before["input_ids"][~chosen])
    assert not np.isin(before["input_ids"][chosen], SPECIAL).any()
    np.testing.assert_array_equal(after["segment_ids"], before["segment_ids"])


def test_the_shares_of_bert(masked):
    found = [(PLAIN[step]["input_ids"], masked[step]) for step in range(40)]
    before = np.stack([ids for ids, _ in found])
    after, labels = (np.stack([batch[name] for _, batch in found]) for name in ("input_ids", "labels"))
    chosen, words = labels != IGNORED, ~np.isin(before, SPECIAL)
    assert chosen.sum() / words.sum() == pytest.approx(0.15, abs=0.005)
    assert (after[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (after[chosen] == before[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert not np.isin(after[chosen], [0, 2, 3]).any()


def test_steps_and_seeds_choose_anew(masked):
    other = MaskedBatches(PLAIN, MASK, SPECIAL, VOCABULARY, seed=1)
    choices = [tuple((b["labels"] != IGNORED).ravel()) for b in (masked[0], masked[1], other[0])]
    assert len(set(choices)) == 3


def test_at_least_one_token_is_chosen():
    one = OrderedBatches(packed_examples([[2, 7, 3]], 8, next_token=False), 1)
    for seed in range(9):
        batch = MaskedBatches(one, MASK, SPECIAL, VOCABULARY, seed)[0]
        np.testing.assert_array_equal(batch["labels"], [[IGNORED, 7] + [IGNORED] * 6])


def test_rows_that_fill_up_the_last_batch_are_no_texts():
    examples = PaddedExamples({"input_ids": DOCUMENTS[:5]})
    last = MaskedBatches(OrderedBatches(examples, 4), MASK, SPECIAL, VOCABULARY, 0, share=0.99)[1]
    assert (last["labels"][0] != IGNORED).any()
    assert (last["labels"][1:] == IGNORED).all()


def test_a_text_of_special_tokens_alone_chooses_none():
    one = OrderedBatches(packed_examples([[2, 3]], 8, next_token=False), 1)
    assert (MaskedBatches(one, MASK, SPECIAL, VOCABULARY, 0)[0]["labels"] == IGNORED).all()
    with pytest.raises(ValueError, match="share of masked tokens must be between 0 and 1"):
        MaskedBatches(one, MASK, SPECIAL, VOCABULARY, 0, share=0)
