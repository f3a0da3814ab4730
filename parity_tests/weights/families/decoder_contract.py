"""What each family of decoders is held to, beside transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from jax_attn.parity import Case, compare_cases
from jax_attn.weights import from_pretrained, save_pretrained
from jax_attn.weights.families import family_of

VOCAB, LENGTH = 31, 7
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 13,
    "rms_norm_eps": 1e-3,
    "pad_token_id": None,
}
# A whole text, one padded on the left, as prompts are, and one on the right.
REAL = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
IDS = np.random.default_rng(0).integers(3, VOCAB, REAL.shape)
TEXTS = Case("padding on both sides", (IDS, REAL))


def theirs(kind: type, config: type, **settings: Any) -> Any:
    """A model of transformers, with no bias of 0 and no scale of 1."""
    torch.manual_seed(0)
    model = kind(config(**settings, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def call_ours(module, ids, real):
    """Padding gives nothing that anyone reads."""
    output = module(ids, real)
    return output * real[..., None] if output.shape[:2] == real.shape else output


def call_theirs(module, ids, real):
    """Called as `generate` does, with the positions of the tokens."""
    positions = (real.cumsum(-1) - 1).clip(min=0)
    output = module(ids, attention_mask=real, position_ids=positions, use_cache=False)
    output = output.logits if "logits" in output else output.last_hidden_state
    return output * real[..., None] if output.shape[:2] == real.shape else output


def assert_family(
    model: Any,
    folder: Path,
    lanes: Sequence[str] = ("float64", "dropout"),
    case: Case = TEXTS,
    **overrides: Any,
) -> None:
    """Our model of what transformers saves computes the same, and what it saves are the same bits.

    The layers are a loop in float64, and a list where dropout is drawn.
    """
    model.save_pretrained(folder)
    names = family_of(config_of(folder)).keys(type(model).__name__)
    for lane in lanes:
        ours = from_pretrained(folder, scan=lane == "float64", **overrides)
        compare_cases(
            ours,
            model,
            [case],
            lanes=[lane],
            names=names,
            whole_model=True,
            call_flax=call_ours,
            call_torch=call_theirs,
        ).assert_passed()
        assert_saved(ours, folder)


def assert_saved(ours: Any, folder: Path) -> None:
    """`save_pretrained` writes what `from_pretrained` read."""
    again = save_pretrained(ours, folder / "again")
    before, after = (load_file(each / "model.safetensors") for each in (folder, again))
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor)
    ignored = ("dtype", "transformers_version")
    old, new = (
        {name: value for name, value in config_of(each).items() if name not in ignored}
        for each in (folder, again)
    )
    assert new == {**old, "architectures": new["architectures"]}


def config_of(folder: Path) -> dict[str, Any]:
    """Its `config.json`."""
    return json.loads((folder / "config.json").read_text())


def edited(folder: Path, **attributes: Any) -> Path:
    """The folder with another `config.json`; `...` takes an attribute away."""
    config = {**config_of(folder), **attributes}
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(folder: Path, **attributes: Any) -> str:
    """Why a `config.json` with these attributes is refused."""
    before = config_of(folder)
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        from_pretrained(edited(folder, **attributes))
    edited(folder, **{name: before.get(name, ...) for name in attributes})
    return str(caught.value).partition("config.json: ")[2]
