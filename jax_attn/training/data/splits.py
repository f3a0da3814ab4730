"""What is kept from training, to test on."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Text = TypeVar("Text", str, np.ndarray)


def hold_out(texts: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Return which texts to keep for the test, `(n,)` booleans: `share` of the *different* texts, drawn by `seed`.

    Texts that differ in case or spacing alone count as one and stay on one side, so that no text is both
    trained on and tested on. Of pairs, give the sources: then the test is on sources that were never seen.

    Raises:
        ValueError: a share that is not between 0 and 1, or fewer than two different texts.
    """
    _require_share(share)
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(" ".join(text.split()).casefold(), len(numbers)) for text in texts])
    if len(numbers) < 2:
        raise ValueError("there must be at least two different texts, one to train on and one to test on")
    held_out = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    return np.isin(same, np.random.default_rng(seed).permutation(len(numbers))[:held_out])


def hold_out_end(text: Text, share: float) -> tuple[Text, Text]:
    """Cut a text, or its tokens, in two: all but the last `share`, and that.

    Raises:
        ValueError: a share that is not between 0 and 1, or nothing left on one side.
    """
    _require_share(share)
    end = min(max(1, round(share * len(text))), len(text) - 1)
    if end < 1:
        raise ValueError(f"a text of {len(text)} cannot be cut into one to train on and one to test on")
    return text[: len(text) - end], text[len(text) - end :]


def require_two_classes(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Raise ValueError unless the labels to train on are of two classes or more."""
    found = np.unique(labels)
    if len(found) < 2:
        only = ", ".join(classes[label] for label in found)
        raise ValueError(
            f"only one class, {only}, is left to train on once the test is held out; give more texts, or "
            "another --seed"
        )


def _require_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"--held-out must be a share between 0 and 1, got {share}")
