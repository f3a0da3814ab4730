import numpy as np
import pytest

from jax_attn.training.data import hold_out, hold_out_end, require_two_classes


def test_the_split_keeps_equal_texts_together():
    texts = [f"Text  {i % 40}" if i % 2 else f"text {i % 40} " for i in range(200)]
    held_out = hold_out(texts, 0.25, seed=0)
    sides = {}
    for text, side in zip(texts, held_out, strict=True):
        sides.setdefault(" ".join(text.split()).casefold(), set()).add(bool(side))
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 10


def test_the_split_is_fixed_by_its_seed_and_never_empty():
    texts = list("abcdefgh")
    np.testing.assert_array_equal(hold_out(texts, 0.5, 1), hold_out(texts, 0.5, 1))
    assert not np.array_equal(hold_out(texts, 0.5, 1), hold_out(texts, 0.5, 2))
    assert hold_out(texts, 0.001, 0).sum() == 1
    assert hold_out(texts, 0.999, 0).sum() == 7
    with pytest.raises(ValueError, match="at least two different texts"):
        hold_out(["same", " Same"], 0.5, 0)


@pytest.mark.parametrize("share", [0, 1, -0.5, 3])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="--held-out must be a share between 0 and 1"):
        hold_out(["a", "b"], share, 0)
    with pytest.raises(ValueError, match="--held-out must be a share between 0 and 1"):
        hold_out_end("ab", share)


def test_the_end_of_a_text_is_held_out():
    assert hold_out_end("abcdefghij", 0.2) == ("abcdefgh", "ij")
    assert hold_out_end("ab", 0.001) == ("a", "b")
    training, test = hold_out_end(np.arange(10), 0.95)
    assert (training.tolist(), test.tolist()) == ([0], list(range(1, 10)))
    with pytest.raises(ValueError, match="cannot be cut"):
        hold_out_end("a", 0.5)


def test_two_classes_must_be_left():
    require_two_classes(np.array([0, 2]), ["a", "b", "c"])
    with pytest.raises(ValueError, match="only one class, b, is left to train on"):
        require_two_classes(np.array([1, 1]), ["a", "b"])
