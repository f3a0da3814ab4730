"""A decoder reads a prompt and writes a text, beside transformers with its cache, in float32."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from jax_attn.models.generation.generate import generate
from jax_attn.weights.families import family_of
from jax_attn.weights.pretrained import from_config, from_pretrained
from jax_attn.weights.sample import smollm2_file
from jax_attn.weights.state_dict import numpy_state_dict

NAMES = ("Flax, jitted", "transformers")
PROMPT, NEW = 512, 64
SHORT = 16  # a prompt that is read at once, where writing is timed

SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
Write = Callable[[np.ndarray, int], np.ndarray]


def bench_decoder(
    checkpoint: Path | None = None, prompt: int = PROMPT, new: int = NEW, rounds: int = 7
) -> Iterator[Comparison]:
    """Time reading a prompt up to the first token, and writing after a short one, by the likeliest token.

    Args:
        checkpoint: a Llama's folder or GGUF file; None is SmolLM2, or where it is missing its shape.
        prompt: tokens of the prompt that is read.
        new: tokens that are written.
        rounds: how often each contender is timed.
    """
    ours = _decoder(checkpoint)
    writers = (_flax(ours), _transformers(ours))
    vocabulary = ours.config["vocab_size"]
    for case, tokens, count in (
        (f"a prompt of {prompt} tokens", prompt, 1),
        (f"{new} new tokens", SHORT, new),
    ):
        ids = np.random.default_rng(0).integers(vocabulary // 2, vocabulary, (1, tokens))
        contenders = {
            name: Contender(lambda write=write: write(ids, count), lambda found: [found])  # noqa: B023
            for name, write in zip(NAMES, writers, strict=True)
        }
        yield contest(case, contenders, rounds=rounds, facts={"prompt": tokens, "new": count})


def _decoder(checkpoint: Path | None) -> Any:
    """The model of a checkpoint, or one of SmolLM2's shape."""
    try:
        path = smollm2_file() if checkpoint is None else checkpoint
    except FileNotFoundError:
        module = from_config(SMOLLM2, rngs=nnx.Rngs(0))
        module.eval()
        return module
    return from_pretrained(path, param_dtype=jnp.float32)


def _flax(module: nnx.Module) -> Write:
    return lambda ids, count: generate(module, ids, max_new_tokens=count).tokens


def _transformers(module: Any) -> Write:
    """transformers' model of the same `config.json`, with the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    described = dict(module.config)
    names = family_of(described).keys(described["architectures"][0])
    config = AutoConfig.for_model(described.pop("model_type"), **described)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    weights = numpy_state_dict(module, names=names)
    model.load_state_dict(
        {key: torch.from_numpy(np.array(each)) for key, each in weights.items()}, strict=False
    )
    model.tie_weights()

    @torch.inference_mode()
    def write(ids: np.ndarray, count: int) -> np.ndarray:
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        given = torch.from_numpy(ids)
        mask = torch.ones_like(given)
        written = model.generate(given, attention_mask=mask, max_new_tokens=count, **options)
        return written[:, ids.shape[1] :].numpy()

    return write
