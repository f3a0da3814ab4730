"""Whisper's encoder reads half a minute of sound, beside transformers' on torch, in float32."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from jax_attn.functional.log_mel import SAMPLING_RATE, SECONDS, log_mel
from jax_attn.weights.families import family_of
from jax_attn.weights.pretrained import from_config, from_pretrained
from jax_attn.weights.sample import whisper_folder
from jax_attn.weights.state_dict import numpy_state_dict

NAMES = ("Flax, jitted", "transformers")

TINY: dict[str, Any] = {  # its sizes are the defaults
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": 51864,
}


def bench_whisper(checkpoint: Path | None = None, batch: int = 1, rounds: int = 7) -> Comparison:
    """Time the encoder on noise.

    Args:
        checkpoint: a Whisper's folder; None is tiny.en, or where it is missing its shape.
        batch: how many sounds are read at once.
        rounds: how often each contender is timed.
    """
    ours = _whisper(checkpoint)
    bands, frames = ours.config.get("num_mel_bins", 80), 2 * ours.model.encoder.positions.num_embeddings
    seconds = frames * SECONDS / 3000
    noise = 0.1 * np.random.default_rng(0).standard_normal((batch, round(seconds * SAMPLING_RATE)))
    features = np.asarray(log_mel(jnp.asarray(noise, jnp.float32), bands, seconds=None))
    contenders = dict(zip(NAMES, (_flax(ours, features), _transformers(ours, features)), strict=True))
    case = f"{batch} x {seconds:.0f} s of sound"
    return contest(case, contenders, rounds=rounds, facts={"batch": batch, "frames": frames})


def _whisper(checkpoint: Path | None) -> Any:
    """The model of a checkpoint, or one of the shape of tiny.en."""
    try:
        folder = whisper_folder() if checkpoint is None else checkpoint
    except FileNotFoundError:
        module = from_config(TINY, rngs=nnx.Rngs(0))
        module.eval()
        return module
    return from_pretrained(folder, param_dtype=jnp.float32)


def _flax(module: Any, features: np.ndarray) -> Contender:
    graphdef, state = nnx.split(module.model.encoder)
    encode = jax.jit(lambda state, given: nnx.merge(graphdef, state)(given).last_hidden_state)
    given = jnp.asarray(features)
    return Contender(lambda: encode(state, given).block_until_ready(), lambda found: [np.asarray(found)])


def _transformers(module: Any, features: np.ndarray) -> Contender:
    """transformers' model of the same `config.json`, with the same weights."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    described = dict(module.config)
    names = family_of(described).keys(described["architectures"][0])
    model = WhisperForConditionalGeneration(WhisperConfig(**described)).eval()
    tensors = numpy_state_dict(module, names=names)
    model.load_state_dict({key: torch.tensor(array) for key, array in tensors.items()}, strict=False)
    encoder, given = model.model.encoder, torch.tensor(features)

    @torch.inference_mode()
    def run() -> Any:
        return encoder(given).last_hidden_state

    return Contender(run, lambda found: [found.numpy()])
