"""What a `config.json` may say, and how what it may not is told."""

import re

import pytest

from jax_attn.weights.config import ConfigRules, model_arguments, read_config

RULES = ConfigRules(
    defaults={"width": 8, "rate": 0.5, "act": "gelu"},
    choices={"act": ("gelu", "relu")},
    ordinary={"position_embedding_type": "absolute"},
    neutral=("note",),
)


def test_what_is_absent_has_its_default_and_what_is_neutral_is_passed_over():
    config = {"model_type": "x", "width": 16, "rate": 1, "note": [1], "use_cache": True, "max_length": 20}
    assert model_arguments(config, RULES) == {"width": 16, "rate": 1, "act": "gelu"}


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("position_embedding_type", "relative_key", "'relative_key' is not supported, only 'absolute' is"),
        ("is_decoder", True, "True is not supported, only False is"),
        ("is_encoder_decoder", True, "True is not supported, only False is"),
        ("add_cross_attention", True, "True is not supported, only False is"),
        ("pruned_heads", {"1": [0]}, "{'1': [0]} is not supported, only {} is"),
        ("auto_map", {"AutoModel": "code.py"}, "{'AutoModel': 'code.py'} is not supported, only None is"),
        ("rate", float("nan"), "nan must be a finite number"),
        ("new_trick", 3, "3 is not known here"),
        ("act", "silu", "'silu' is not supported, only 'gelu', 'relu'"),
        ("act", ["gelu"], "['gelu'] must be of type str"),
        ("width", "16", "'16' must be of type int"),
        ("width", True, "True must be of type int"),
        ("width", 16.0, "16.0 must be of type int"),
        ("width", None, "None must be of type int"),
        ("width", 0, "0 must be at least 1"),
        ("width", 10**30, f"{10**30} must be at most {2**31 - 1}"),
        ("rate", "0.5", "'0.5' must be of type float"),
        ("initializer_range", [0.02], "[0.02] must be of type float"),
        ("initializer_factor", float("nan"), "nan must be a finite number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(attribute, value, message):
    with pytest.raises(ValueError, match=re.escape(f"{attribute}={message}")):
        model_arguments({attribute: value}, RULES)
    assert model_arguments({attribute: value}, RULES, ignore=[attribute]) == dict(RULES.defaults)
    assert model_arguments({attribute: value}, RULES, ignore=[attribute[:3] + "*"]) == dict(RULES.defaults)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("pruned_heads", {}),
        ("auto_map", None),
    ],
)
def test_the_ordinary_value_passes(attribute, value):
    assert model_arguments({attribute: value}, RULES) == dict(RULES.defaults)


def test_all_refusals_are_told_at_once_in_one_line():
    with pytest.raises(ValueError, match="is_decoder") as caught:
        model_arguments({"is_decoder": True, "new_trick": 3, "other_trick": 4, "width": -1}, RULES)
    message = str(caught.value)
    assert all(name in message for name in ("new_trick=3", "other_trick=4", "width=-1", "--ignore NAME"))
    assert "\n" not in message


def test_bad_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {tmp_path / 'no'}")):
        read_config(tmp_path / "no")
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{tmp_path} has no config.json, so it is no checkpoint")
    ):
        read_config(tmp_path)
    for content, message in [
        (b"{", "is not JSON: "),
        (b"", "is not JSON: "),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[1]", "must hold a JSON object, got list"),
        (b"{}", "has no model_type, which tells the architecture"),
        (b'{"model_type": 3}', "has no model_type, which tells the architecture"),
        (b"[" * 100_000, "is not JSON: "),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path} {message}")) as caught:
            read_config(tmp_path)
        assert "\n" not in str(caught.value)
    path.write_text('{"model_type": "bert"}')
    assert read_config(tmp_path) == {"model_type": "bert"}
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_config(path)
