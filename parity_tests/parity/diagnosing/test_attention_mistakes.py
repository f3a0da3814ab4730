"""Mistakes in attentions of other kinds than softmax over one product: each is caught, and named."""

import pytest

from parity_tests.parity.diagnosing.attention_mistakes import MISTAKES
from parity_tests.parity.diagnosing.test_part_mistakes import assert_named


# Each takes seconds: one here, and all of them among the slow tests.
@pytest.mark.parametrize(
    "mistakes", [("ReLU",), pytest.param(MISTAKES, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_mistake_in_another_attention_is_caught_and_named(mistakes, monkeypatch):
    assert_named({mistake: MISTAKES[mistake] for mistake in mistakes}, monkeypatch)
