"""A picture shows what its row computes."""

import re

import numpy as np

from docs.hooks.pictures import SHADES, pattern, picture, pictures, svg
from jax_attn.catalogue import CATALOGUE
from jax_attn.parity.tolerances import SAME_FLOAT32


def test_a_causal_rung_reaches_no_later_token():
    (reach,) = pattern(CATALOGUE["causal"])
    assert np.array_equal(reach != 0, np.tri(len(reach), dtype=bool))


def test_weights_are_those_that_the_module_gives():
    weights = pattern(CATALOGUE["attention-window"])
    heads, tokens, _ = weights.shape
    assert heads == 2
    assert np.allclose(weights.sum(-1), 1, atol=SAME_FLOAT32)
    seen = np.tri(tokens, dtype=bool) & ~np.tri(tokens, k=-3, dtype=bool)  # itself and the two before it
    assert np.array_equal(weights != 0, np.stack([seen] * heads))


def test_what_is_no_attention_has_no_picture():
    assert picture(CATALOGUE["linear-qkv"]) is None
    assert picture(CATALOGUE["feed-forward-relu"]) is None


def test_shades_follow_the_weights():
    weights = np.array([[[1.0, 0.0], [0.2, 0.8]], [[0.5, 0.0], [0.25, 0.25]]])
    drawn = svg(weights, "two heads")
    shades = dict(re.findall(r'fill-opacity="([\d.]+)" d="(M[^"]*)"', drawn))
    assert 'aria-label="two heads"' in drawn
    assert len(re.findall(r"h1v1h-1z", drawn)) == np.count_nonzero(weights)
    assert shades[f"{1 / SHADES:g}"] == "M0 1h1v1h-1z"
    assert "M3 0h1" in drawn  # the second head, a cell further right, on its own scale


def test_pictures_are_drawn_anew_only_where_code_changed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("docs.hooks.pictures.picture", lambda twin: drawn.append(twin.name))
    kept = tmp_path / "pictures.json"
    assert pictures(kept).keys() == pictures(kept).keys() == CATALOGUE.keys()
    assert len(drawn) == len(CATALOGUE)
    monkeypatch.setattr("docs.hooks.pictures._digest", lambda: "changed")
    pictures(kept)
    assert len(drawn) == 2 * len(CATALOGUE)
