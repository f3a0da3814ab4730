"""Checkpoints of transformers' own models, loaded and saved, beside those models: what each family's test calls."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.weights import from_pretrained, save_pretrained
from jax_attn.weights.families import family_of
from jax_attn.weights.rules import Names

LANES = ("float64", "dropout")


def drawn(model: torch.nn.Module) -> Any:
    """The model with weights among which there is no 0 and no 1, in which much could go wrong unseen."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def assert_beside(
    theirs: Any,
    cases: Sequence[Case],
    tmp_path: Path,
    *,
    outputs: Sequence[str],
    names: Names = (),
    lanes: Sequence[str] = LANES,
    left_out: Sequence[str] = (),
    call_flax: Any = None,
    **overrides: Any,
) -> Any:
    """Theirs is saved; what we load computes the same, gradients and training too; what we save is the same file.

    Args:
        theirs: a model of transformers, called by the names of the arguments.
        cases: the calls, by name: ours has the same names.
        tmp_path: an empty folder.
        outputs: attributes of what theirs returns, in the order of ours.
        names: what turns the keys of the file into those of the module, where they are not the same.
        lanes: the lanes to compare in.
        left_out: keys that are in their file and not in ours.
        call_flax: as in `compare_cases`.
        overrides: further arguments of `from_pretrained`.

    Returns:
        our module.
    """
    theirs = drawn(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = from_pretrained(tmp_path / "theirs", **overrides)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    family = family_of(config)
    keys = family.keys(family.architecture(config, overrides.get("architecture")))

    def call_torch(module: Any, *args: Any, **kwargs: Any) -> Any:
        returned = module(*args, **kwargs)
        first, *others = (returned[name] for name in outputs)
        return (first, *others) if others else first

    report = compare_cases(
        ours,
        theirs,
        cases,
        lanes=lanes,
        weights=None,
        names=[*keys, *names],
        whole_model=True,
        call_torch=call_torch,
        call_flax=call_flax,
        trace=False,
    )
    report.assert_passed()
    assert set(report.lanes) == set(lanes)
    assert_saved_alike(ours, tmp_path, left_out)
    return ours


def assert_saved_alike(ours: Any, tmp_path: Path, left_out: Sequence[str] = ()) -> None:
    """What we save is their file bit for bit, so that transformers reads it, and its config says the same."""
    saved = save_pretrained(ours, tmp_path / "ours")
    theirs, mine = (load_file(folder / "model.safetensors") for folder in (tmp_path / "theirs", saved))
    assert set(mine) == set(theirs) - set(left_out)
    for key, tensor in mine.items():
        assert tensor.dtype == theirs[key].dtype, key
        assert tensor.tobytes() == theirs[key].tobytes(), key
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "theirs", saved)]
    assert configs[0] == configs[1]
