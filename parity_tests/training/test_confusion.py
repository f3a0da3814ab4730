import warnings

import numpy as np
import pytest

from jax_attn.training.confusion import draw_confusion


@pytest.mark.parametrize("names", [["$_$", "a"], ["한국어", "$5"]])
def test_classes_are_called_what_they_are_called(tmp_path, names):
    """Not read as formulas, and without a warning where the font lacks a letter."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(np.eye(2, dtype=int), names, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
