"""Where a training starts: at weights that are drawn, or at those of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

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
    dtype = jnp.dtype(options.dtype)
    given: dict[str, Any] = {
        "dtype": dtype,
        "param_dtype": jnp.float64 if dtype == jnp.float64 else jnp.float32,
        "architecture": architecture,
        **overrides,
    }
    if isinstance(source, Path):
        model = from_pretrained(source, seed=options.seed, **given)
    else:
        model = from_config(source, rngs=nnx.Rngs(options.seed), **given)
    model.train()
    return model


def save_model(folder: Path, model: nnx.Module, tokenizer: Any, **config: Any) -> None:
    """Save a Hugging Face folder: weights, `config.json` with `config` in it, and `tokenizer.json`."""
    save_pretrained(model, folder, config=config)
    tokenizer.save(str(folder / "tokenizer.json"))
