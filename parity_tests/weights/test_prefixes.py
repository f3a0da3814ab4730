"""Keys with a prefix that a wrapper gave them: taken off a folder's, and one line for a `state_dict`'s."""

import re

import pytest
from flax import nnx

from jax_attn.models.bert import Bert
from jax_attn.weights import StateDictError, from_pretrained, load_state_dict, numpy_state_dict
from parity_tests.weights.test_pretrained import bits, edit_tensors, folder  # noqa: F401

PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.encoder.", "0.auto_model."]


@pytest.mark.parametrize(
    "prefix", [PREFIXES[0], *(pytest.param(prefix, marks=pytest.mark.slow) for prefix in PREFIXES[1:])]
)
@pytest.mark.parametrize("inner", ["", "bert."])
def test_a_folder_is_read_through_a_prefix(folder, prefix, inner):  # noqa: F811
    expected = bits(from_pretrained(folder))
    edit_tensors(folder, lambda tensors: {f"{prefix}{inner}{key}": value for key, value in tensors.items()})
    with pytest.warns(UserWarning, match=re.escape(f"took the prefix {prefix!r} off")):
        assert bits(from_pretrained(folder)) == expected


@pytest.mark.slow
def test_names_lead_to_keys_that_are_no_prefix_away(folder):  # noqa: F811
    expected = bits(from_pretrained(folder))
    edit_tensors(
        folder, lambda tensors: {key.replace("encoder.layer.", "h."): tensors[key] for key in tensors}
    )
    with pytest.raises(StateDictError, match="makes all of it fit") as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert bits(from_pretrained(folder, names=[(r"\bencoder\.layer\.", "h.")])) == expected
    proposed = eval(re.search(r"names=(\[.*\]) makes", str(caught.value))[1])
    assert bits(from_pretrained(folder, names=proposed)) == expected


def test_two_encoders_in_a_file_are_told_apart(folder):  # noqa: F811
    expected = bits(from_pretrained(folder))
    edit_tensors(
        folder,
        lambda tensors: {
            **{f"question.{key}": tensors[key] for key in tensors},
            **{f"context.{key}": 2 * tensors[key] for key in tensors},
        },
    )
    with pytest.raises(ValueError, match=r"holds 2 encoders, under 'context\.', 'question\.'") as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"took the prefix 'question\.' off"):
        chosen = from_pretrained(folder, ignore=["context.*"], names=[])
    assert bits(chosen) == expected


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_state_dict_takes_one_line(prefix):
    flax = Bert(31, 12, 4, 3, 17, max_position_embeddings=13, rngs=nnx.Rngs(0))
    given = {prefix + key: value for key, value in numpy_state_dict(flax).items()}
    assert len(given) > 70
    with pytest.raises(StateDictError) as caught:
        load_state_dict(flax, given)
    assert "\n" not in str(caught.value)
    load_state_dict(flax, given, names=[("^", prefix)])
    assert repr([("^", prefix)]) in str(caught.value)
