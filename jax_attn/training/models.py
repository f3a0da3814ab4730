"""Where a training starts: at weights that are drawn, or at those of a checkpoint."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from jax_attn.training.data import TextTokenizer
from jax_attn.training.options import TrainingOptions
from jax_attn.weights import from_config, from_pretrained, save_pretrained


def starting_model(
    source: Mapping[str, Any] | Path,
    options: TrainingOptions,
    architecture: str,
    **overrides: Any,
) -> nnx.Module:
    """A model in training mode, that `torch_twin` finds the twin of and `save_pretrained` saves.

    Args:
        source: the content of a `config.json`, of which the weights are drawn; or a checkpoint's folder.
        options: the dtype to compute in, and the seed. Parameters are float32, with float64 float64.
        architecture: what the model is, as in `from_pretrained`: "ForSequenceClassification".
        overrides: attributes of `config.json` with other values than there.

    Raises:
        ValueError, OSError: as `from_pretrained`.
    """
    exact = options.dtype == "float64"
    given: dict[str, Any] = {
        "dtype": options.dtype,
        "param_dtype": "float64" if exact else "float32",
        "architecture": architecture,
        **overrides,
    }
    with jax.enable_x64(exact or jax.config.read("jax_enable_x64")):
        if isinstance(source, Path):
            model = told(lambda: from_pretrained(source, seed=options.seed, **given))
        else:
            model = from_config(source, rngs=nnx.Rngs(options.seed), **given)
    model.train()
    return model


def told(load: Callable[[], nnx.Module]) -> nnx.Module:
    """What is loaded; notes on it are printed as lines of their own, not as warnings with a place in the code."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = load()
    for note in notes:
        print(note.message)
    return model


def save_model(folder: Path, model: nnx.Module, tokenizer: TextTokenizer, **config: Any) -> None:
    """Save a Hugging Face folder: weights, `config.json` with `config` in it, and the tokenizer."""
    save_pretrained(model, folder, config=config)
    tokenizer.save(folder)


def gathered(array: Any) -> np.ndarray:
    """What all processes hold of an array of either framework, as NumPy."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
