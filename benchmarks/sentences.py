"""Embedding sentences with a pretrained encoder: Flax under `jit`, the torch twin, and transformers."""

import pydoc_data.topics
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from jax_attn.functional.sentence import mean_pooling
from jax_attn.weights.pretrained import from_pretrained
from jax_attn.weights.sample import minilm_folder
from jax_attn.weights.tokenizer import tokenize
from jax_attn.weights.twin import torch_twin

NAMES = ("Flax, jitted", "torch twin", "transformers")
FLAX, TWIN, TRANSFORMERS = NAMES
Batch = tuple[np.ndarray, np.ndarray]
Forward = Callable[[np.ndarray, np.ndarray], Any]


def bench_sentences(
    folder: Path | None = None, count: int = 256, batch_size: int = 32, rounds: int = 7
) -> Comparison:
    """Time to embed `count` sentences, for each contender, in one interleaved run.

    Everyone gets the same batches, sorted by length and padded to a multiple of 16 tokens, in float32.

    Args:
        folder: a BERT checkpoint with its `tokenizer.json`; None is the sample encoder.
        count: number of sentences.
        batch_size: sentences in a batch.
        rounds: how often each contender is timed.
    """
    folder = minilm_folder() if folder is None else folder
    batches = make_batches(folder, english_sentences(count), batch_size)
    contenders = {
        name: Contender(
            lambda run=run: [run(*batch) for batch in batches], lambda found: list(map(np.asarray, found))
        )
        for name, run in forwards(folder).items()
    }
    return contest(f"{count} sentences in batches of {batch_size}", contenders, rounds=rounds)


def forwards(folder: Path) -> dict[str, Forward]:
    """For each contender, what turns `(input_ids, attention_mask)` into a vector for each sentence."""
    import torch

    encoder = from_pretrained(folder, param_dtype=jnp.float32)
    graphdef, state = nnx.split(encoder)

    @jax.jit
    def flax(state: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return mean_pooling(nnx.merge(graphdef, state)(ids, mask).last_hidden_state, mask)

    def torch_forward(module: Any) -> Forward:
        @torch.inference_mode()
        def run(ids: np.ndarray, mask: np.ndarray) -> Any:
            attended = torch.from_numpy(mask)
            hidden = module(input_ids=torch.from_numpy(ids), attention_mask=attended).last_hidden_state
            weights = attended[..., None].to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1)

        return run

    found: dict[str, Forward] = {
        FLAX: lambda ids, mask: flax(state, ids, mask),
        TWIN: torch_forward(torch_twin(encoder)),
    }
    if find_spec(TRANSFORMERS):
        from transformers import BertModel

        found[TRANSFORMERS] = torch_forward(BertModel.from_pretrained(folder).eval())
    return found


def make_batches(folder: Path, sentences: Sequence[str], batch_size: int) -> list[Batch]:
    """The sentences as padded ids and masks, the short ones together."""
    ordered = sorted(sentences, key=len)
    starts = range(0, len(ordered), batch_size)
    return [pad(*tokenize(folder, ordered[start : start + batch_size])) for start in starts]


def pad(ids: np.ndarray, mask: np.ndarray, multiple: int = 16) -> Batch:
    """More padding, up to a multiple: few shapes, so that few programs are compiled."""
    missing = -ids.shape[1] % multiple
    widths = ((0, 0), (0, missing))
    return np.pad(ids, widths), np.pad(mask, widths)


def english_sentences(count: int) -> list[str]:
    """Real sentences of 4 to 40 words, from the language reference that Python carries."""
    text = " ".join(pydoc_data.topics.topics.values())
    paragraphs = re.split(r"\n\s*\n", text)
    prose = " ".join(
        " ".join(part.split()) for part in paragraphs if not part.lstrip().startswith((">>>", "|", "+"))
    )
    sentences = [s for s in re.split(r"(?<=[.?!]) (?=[A-Z])", prose) if 4 <= len(s.split()) <= 40]
    if not 1 <= count <= len(sentences):
        raise ValueError(f"count must be from 1 to {len(sentences)}, got {count}")
    step = len(sentences) / count
    return [sentences[int(index * step)] for index in range(count)]
