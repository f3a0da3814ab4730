"""Any batch is a function of its number: the same on any number of hosts, and after any restart."""

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_attn.training.data import (
    IGNORED,
    MaskedBatches,
    OrderedBatches,
    ShuffledBatches,
    WindowExamples,
    host_rows,
    iterate,
    labelled_examples,
    packed_examples,
    pair_examples,
)

RANDOM = np.random.default_rng(0)


def sequences(count, longest=23):
    return [RANDOM.integers(5, 50, RANDOM.integers(2, longest)) for _ in range(count)]


TEXTS = sequences(41)
EXAMPLES = {
    "labelled": labelled_examples(TEXTS, np.arange(41)),
    "pairs": pair_examples(TEXTS, sequences(41)),
    "packed": packed_examples(TEXTS, 16),
    "windows": WindowExamples(np.arange(331), 7),
}
BATCHES = {
    **{
        name: lambda size, seed, e=examples: ShuffledBatches(e, size, seed)
        for name, examples in EXAMPLES.items()
    },
    **{
        f"{name} once": lambda size, seed, e=examples: OrderedBatches(e, size)
        for name, examples in EXAMPLES.items()
    },
    "masked": lambda size, seed: MaskedBatches(
        ShuffledBatches(EXAMPLES["labelled"], size, seed), 4, [0, 4], 50, seed
    ),
}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("kind", BATCHES)
@given(size=st.sampled_from([4, 8]), seed=st.integers(0, 99), step=st.integers(0, 1000))
@settings(max_examples=25)
def test_hosts_together_have_the_global_batch(kind, size, seed, step):
    batches = BATCHES[kind](size, seed)
    step %= batches.steps or 1001
    for hosts in (1, 2, 4):
        parts = [batches.part(step, host_rows(size, host, hosts)) for host in range(hosts)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_same(joined, batches[step])


@pytest.mark.parametrize("kind", BATCHES)
@given(size=st.sampled_from([3, 4, 64]), seed=st.integers(0, 99), start=st.integers(0, 60))
@settings(max_examples=5)
def test_a_restart_goes_on_with_the_same_batches(kind, size, seed, start):
    """A second object, which has not seen the steps before; and through Grain's threads."""
    whole, again = BATCHES[kind](size, seed), BATCHES[kind](size, seed)
    start %= whole.steps or 61
    expected = [whole[step] for step in range(start, min(start + 3, whole.steps or 99))]
    found = list(islice(iterate(again, start), 3))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("kind", ["labelled", "pairs", "packed"])  # windows have a test of their own
@given(size=st.integers(1, 50), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_each_example_once_an_epoch(kind, size, seed):
    """In as many batches as end with an epoch and a group: every row equally often."""
    examples = EXAMPLES[kind]
    batches = ShuffledBatches(examples, size, seed)
    steps = batches.group * len(examples) // math.gcd(batches.group * size, len(examples))
    rows = np.concatenate([batches.rows(step) for step in range(steps)])
    np.testing.assert_array_equal(np.bincount(rows), np.full(len(examples), len(rows) // len(examples)))


@given(size=st.integers(1, 60), seed=st.integers(0, 99))
def test_no_example_is_ahead_of_another_by_more_than_one_epoch(size, seed):
    batches = ShuffledBatches(EXAMPLES["labelled"], size, seed)
    group = batches.group
    seen = np.zeros(41, int)
    for step in range(6 * group):
        np.add.at(seen, batches.rows(step), 1)
        assert np.ptp(seen) <= 2
        if (step + 1) % group == 0:
            assert np.ptp(seen) <= 1


def test_epochs_and_seeds_differ():
    batches = ShuffledBatches(EXAMPLES["packed"], len(EXAMPLES["packed"]), 0)
    other = ShuffledBatches(EXAMPLES["packed"], len(EXAMPLES["packed"]), 1)
    orders = [tuple(b.rows(step)) for b in (batches, other) for step in range(3)]
    assert len(set(orders)) == 6


def test_batches_hold_texts_of_about_one_length():
    texts = sequences(2000, 60)
    examples = labelled_examples(texts, np.zeros(2000, int))
    batches = ShuffledBatches(examples, 20, 0)
    found = [batches[step]["mask"] for step in range(100)]
    assert {mask.shape[1] for mask in found} == set(examples.widths["input_ids"])
    assert len(examples.widths["input_ids"]) == 4
    best = [batch["mask"] for batch in OrderedBatches(examples, 20)]  # all texts sorted
    assert sum(mask.size for mask in found) < 1.1 * sum(mask.size for mask in best)


def test_padding_takes_the_smallest_width_that_fits():
    examples = labelled_examples([[2, 5, 6], [2, 7], [2] * 8], np.array([1, 0, 1]), pad_id=9, shapes=2)
    assert examples.widths["input_ids"] == [3, 8]
    batch = examples.collate(np.array([0, 1]), np.array([0, 1]))
    np.testing.assert_array_equal(batch["input_ids"], [[2, 5, 6], [2, 7, 9]])
    np.testing.assert_array_equal(batch["mask"].sum(1), [3, 2])
    np.testing.assert_array_equal(batch["labels"], [1, 0])


def test_pairs_have_few_shapes_and_labels_one_token_on():
    examples = pair_examples(sequences(500), [[2, *range(5, 5 + n % 20), 3] for n in range(500)])
    batches = ShuffledBatches(examples, 10, 0)
    found = [batches[step] for step in range(100)]
    assert len({(b["source_ids"].shape, b["target_ids"].shape) for b in found}) <= 4
    for batch in found:
        real = batch["target_mask"]
        np.testing.assert_array_equal(batch["labels"] != IGNORED, real)
        np.testing.assert_array_equal(
            batch["labels"][:, :-1][real[:, 1:]], batch["target_ids"][:, 1:][real[:, 1:]]
        )
        assert (batch["target_ids"][:, 0] == 2).all()
        np.testing.assert_array_equal(batch["labels"].max(1, where=real, initial=3) >= 3, True)


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_once_is_every_example_once(kind, size):
    examples = EXAMPLES[kind]
    batches = OrderedBatches(examples, size)
    rows = np.concatenate([batches.rows(step) for step in range(len(batches))])
    assert sorted(rows) == sorted(examples.in_order())
    found = list(batches)
    assert {len(batch["labels"]) for batch in found} == {size}
    whole = examples.collate(rows, rows)["labels"]
    assert sum((b["labels"] != IGNORED).sum() for b in found) == (whole != IGNORED).sum()
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_windows_do_not_overlap_and_labels_follow():
    examples = EXAMPLES["windows"]
    batches = ShuffledBatches(examples, len(examples), 0)
    begins = set()
    for step in range(12):
        batch = batches[step]
        np.testing.assert_array_equal(batch["labels"], batch["input_ids"] + 1)
        tokens = batch["input_ids"].ravel()
        assert len(set(tokens)) == len(tokens) == 7 * len(examples)
        begins.add(tokens.min())
    assert begins <= set(range(7))
    assert len(begins) > 3
    once = np.concatenate([b["labels"][b["labels"] != IGNORED] for b in OrderedBatches(examples, 4)])
    np.testing.assert_array_equal(once, np.arange(1, 330))


def test_windows_of_a_file_of_tokens(tmp_path):
    np.arange(331, dtype=np.uint16).tofile(tmp_path / "train.bin")
    examples = WindowExamples(np.memmap(tmp_path / "train.bin", np.uint16, "r"), 7)
    assert isinstance(examples.tokens.base, np.memmap)
    assert_same(ShuffledBatches(examples, 4, 0)[5], ShuffledBatches(EXAMPLES["windows"], 4, 0)[5])


def test_the_shortest_text_of_windows():
    batches = ShuffledBatches(WindowExamples(np.arange(8), 7), 2, 0)
    np.testing.assert_array_equal(batches[0]["labels"], [np.arange(1, 8)] * 2)
    with pytest.raises(ValueError, match="7 tokens, too few for one window of 7"):
        WindowExamples(np.arange(7), 7)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="one and the same number of rows"):
        labelled_examples(TEXTS, np.arange(3))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ShuffledBatches(EXAMPLES["packed"], 0, 0)
    with pytest.raises(ValueError, match="--batch-size must be divisible by the 3 processes, got 4"):
        host_rows(4, 0, 3)
    with pytest.raises(IndexError):
        ShuffledBatches(EXAMPLES["packed"], 4, 0)[-1]


def test_iterate_ends_where_it_is_told_and_passes_errors_on():
    batches = ShuffledBatches(EXAMPLES["packed"], 4, 0)
    assert len(list(iterate(batches, 3, 5, rows=slice(1, 3)))) == 2

    class Broken(ShuffledBatches):
        def part(self, step, rows):
            raise ValueError("a file that is gone")

    with pytest.raises(ValueError, match="a file that is gone"):
        next(iterate(Broken(EXAMPLES["packed"], 4, 0)))


def test_iterate_takes_whatever_is_indexed_by_the_step():
    assert list(iterate([{"a": 1}, {"a": 2}, {"a": 3}], 1, 3)) == [{"a": 2}, {"a": 3}]
    assert next(iterate(ShuffledBatches(EXAMPLES["packed"], 4, 0), 10**12))["labels"].shape == (4, 16)
