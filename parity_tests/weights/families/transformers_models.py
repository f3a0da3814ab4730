"""Checkpoints of transformers' own models, loaded and saved, beside those models: what each family's test calls."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from safetensors.numpy import load_file

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.weights import from_config, from_pretrained, save_pretrained
from jax_attn.weights.families import names_of_checkpoint
from jax_attn.weights.rules import Names

# The second is the first in training mode. A test that takes time runs in one, where another one runs in the other.
LANES = ("float64", "dropout")
EXACT, TRAINING = ("float64",), ("dropout",)


def built(config: Mapping[str, Any], **overrides: Any) -> Any:
    """The model of a `config.json`, without any numbers."""
    return nnx.eval_shape(lambda: from_config(config, rngs=nnx.Rngs(0), **overrides))


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
        overrides: further arguments of `from_pretrained`.

    Returns:
        our module.
    """
    theirs = drawn(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = from_pretrained(tmp_path / "theirs", **overrides)

    def call_torch(module: Any, **inputs: Any) -> Any:
        returned = module(**inputs)
        return [without_padding(returned[name], **inputs) for name in outputs]

    def call_flax(module: Any, **inputs: Any) -> Any:
        return [without_padding(output, **inputs) for output in jax.tree.leaves(module(**inputs))]

    report = compare_cases(
        ours,
        theirs,
        cases,
        lanes=lanes,
        weights=None,
        names=[*names_of_checkpoint(ours), *names] if names else (),
        whole_model=True,
        call_torch=call_torch,
        call_flax=call_flax,
        trace=False,
    )
    report.assert_passed()
    assert set(report.lanes) == set(lanes)
    assert_saved_alike(ours, tmp_path)
    return ours


def assert_read_and_written(theirs: Any, tmp_path: Path) -> None:
    """Theirs is saved, and what we load and save is the same file: each tensor has its place."""
    drawn(theirs).save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = from_pretrained(tmp_path / "theirs")
    assert_saved_alike(ours, tmp_path)


def without_padding(output: Any, attention_mask: Any = None, **others: Any) -> Any:
    """What is given for each token, with zeros for padding, of which a model may make anything."""
    if attention_mask is None or output.shape[:2] != attention_mask.shape:
        return output
    return output * attention_mask.reshape(*attention_mask.shape, *[1] * (output.ndim - 2))


def text(
    vocabulary: int,
    tokens: int = 7,
    segments: int = 0,
    *,
    least: int = 0,
    padding: int | None = None,
    seed: int = 0,
) -> Case:
    """Ids of three sequences, the second and the third padded behind, and their segments where there are any.

    Args:
        vocabulary: number of token ids.
        tokens: how many there are in a sequence.
        segments: number of segments; 0 is none.
        least: the smallest id of a token.
        padding: the id of padding; None is any.
        seed: seed of all of them.
    """
    rng = np.random.default_rng(seed)
    mask = np.arange(tokens) < np.array([[tokens], [tokens // 2 + 1], [2]])
    ids = rng.integers(least, vocabulary, mask.shape)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(int)}
    if padding is not None:
        ids[~mask] = padding
    if segments:
        inputs["token_type_ids"] = rng.integers(segments, size=mask.shape)
    return Case("padded", (), inputs)


def assert_saved_alike(ours: Any, tmp_path: Path) -> None:
    """What we save is their file bit for bit, so that transformers reads it, and its config says the same."""
    saved = save_pretrained(ours, tmp_path / "ours")
    theirs, mine = (load_file(folder / "model.safetensors") for folder in (tmp_path / "theirs", saved))
    assert set(mine) == set(theirs)
    for key, tensor in mine.items():
        assert tensor.dtype == theirs[key].dtype, key
        assert tensor.tobytes() == theirs[key].tobytes(), key
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "theirs", saved)]
    assert configs[0] == configs[1]
