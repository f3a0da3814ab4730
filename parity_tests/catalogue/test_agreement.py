import numpy as np
import pytest

from jax_attn.catalogue.agreement import agreement


def test_the_same_logits_agree():
    logits = np.random.default_rng(0).standard_normal((3, 5, 7))
    found = agreement(logits + 2.0, logits)  # what is added to all of them changes no probability
    assert found.divergence < 1e-12
    assert (found.top1, found.top5) == (1.0, 1.0)


def test_the_divergence_is_that_of_the_definition():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = agreement(np.log(q)[None], np.log(p)[None])
    assert abs(found.divergence - (0.5 * np.log(2) - 0.25 * np.log(2))) < 1e-12
    assert found.top1 == 0.0
    assert found.top5 == 1.0, "of three classes all are among the first five"


def test_shares_are_of_predictions_and_of_classes():
    reference = np.tile(np.arange(10.0), (4, 1))
    ours = reference.copy()
    ours[0, [0, 9]] = 9.0, 0.0  # another first class, and one of five that is not among the first five
    found = agreement(ours, reference)
    assert found.top1 == 0.75
    assert found.top5 == (4 / 5 + 3) / 4


def test_bad_logits_are_refused():
    for shape in ((2, 3), (0, 4)):
        with pytest.raises(ValueError, match="logits must have the same shape and not be empty"):
            agreement(np.zeros(shape), np.zeros((0, 4)))
