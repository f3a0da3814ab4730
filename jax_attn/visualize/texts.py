"""A checkpoint reads a text, or two, and its attention is kept."""

import inspect
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.models.generation.generate import generate
from jax_attn.visualize.capture import record_attention
from jax_attn.visualize.record import AttentionRecord, TokenAxis
from jax_attn.visualize.torch_weights import torch_attention_weights
from jax_attn.weights.config import CONFIG
from jax_attn.weights.pretrained import from_pretrained
from jax_attn.weights.sample import minilm_folder
from jax_attn.weights.tokenizer import TokenizedText, labels_of, tokenize_text
from jax_attn.weights.twin import torch_twin

SENTENCE = "The animal didn't cross the street because it was too tired."
MOST_WRITTEN = 24  # tokens that a decoder writes itself


def record_text(
    text: str = SENTENCE,
    pair: str | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    against_torch: bool = False,
) -> AttentionRecord:
    """Let a checkpoint's model read a text, and keep its attention.

    >>> record = record_text("The cat sat on the mat.")  # doctest: +SKIP

    Args:
        text: what it reads.
        pair: a second text: behind the first in an encoder or a decoder; what the decoder reads in an
            encoder-decoder, which writes it itself where it is None.
        checkpoint: a folder with `tokenizer.json`, or a training's; None is the sample model, all-MiniLM-L6-v2.
        against_torch: whether torch's twin reads it too, to be shown beside.

    Raises:
        FileNotFoundError, ModuleNotFoundError: as `from_pretrained` and `tokenize`.
        ValueError: likewise; or the model reads no text.
    """
    name = "all-MiniLM-L6-v2" if checkpoint is None else Path(checkpoint).resolve().name
    folder = minilm_folder() if checkpoint is None else checkpoint_folder(checkpoint)
    model = from_pretrained(folder, param_dtype=np.float32)
    takes = parameters_of(model)
    if takes[0] not in ("input_ids", "inputs") or "num_mel_bins" in model.config:
        seen = "images" if takes[0] == "pixel_values" else "audio"
        raise ValueError(f"{folder} takes no text, but {seen}")
    arguments: dict[str, Any]
    if "decoder_input_ids" in takes:
        arguments, tokens, context = both_sides(model, folder, text, pair)
    else:
        read = tokenize_text(folder, text, pair)
        arguments = {"input_ids": read.ids[None], "attention_mask": np.ones((1, len(read.ids)), np.bool_)}
        if "token_type_ids" in takes and read.type_ids.any():
            arguments["token_type_ids"] = read.type_ids[None]
        tokens, context = axis_of(read), None
    other = torch_attention_weights(torch_twin(model), **arguments) if against_torch else None
    return record_attention(
        model, **arguments, tokens=tokens, context_tokens=context, title=name, other=other
    )


def checkpoint_folder(place: str | PathLike[str]) -> Path:
    """The folder itself, or `model/` in that of a training."""
    folder = Path(place)
    inside = folder / "model"
    return inside if not (folder / CONFIG).is_file() and (inside / CONFIG).is_file() else folder


def axis_of(read: TokenizedText) -> TokenAxis:
    """The tokens, with what the vocabulary has and the id of each."""
    notes = tuple(
        f"{token}, id {number}" if token != label else f"id {number}"
        for token, label, number in zip(read.tokens, read.labels, read.ids, strict=True)
    )
    segments = read.segments if any(read.segments) else ()
    return TokenAxis(read.labels, notes, segments, read.special)


def parameters_of(model: Any) -> list[str]:
    """The names of what a model takes; its heads take the same."""
    while hasattr(model, "model"):
        model = model.model
    return list(inspect.signature(model).parameters)


def both_sides(
    model: Any, folder: Path, text: str, pair: str | None
) -> tuple[dict[str, Any], TokenAxis, TokenAxis]:
    """What an encoder-decoder is called with, and the tokens of its decoder and its encoder."""
    read = tokenize_text(folder, text)
    mask = np.ones((1, len(read.ids)), np.bool_)
    start = model.config.get("decoder_start_token_id")
    start = model.config.get("pad_token_id") or 0 if start is None else start
    if pair is None:
        ids = _written(model, read.ids[None], mask, start)
        tokens = TokenAxis(labels_of(folder, ids), tuple(f"id {each}" for each in ids))
    else:
        target = tokenize_text(folder, pair)
        ids = [start, *target.ids.tolist()]
        axis = axis_of(target)
        tokens = TokenAxis(
            (*labels_of(folder, [start]), *axis.labels),
            (f"id {start}", *axis.notes),
            special=(True, *target.special),
        )
    arguments = {
        "inputs": read.ids[None],
        "decoder_input_ids": np.array([ids], np.int32),
        "attention_mask": mask,
    }
    return arguments, tokens, axis_of(read)


def _written(model: Any, ids: np.ndarray, mask: np.ndarray, start: int) -> list[int]:
    """What the decoder writes, with the token that it starts from."""
    if not hasattr(model, "logits"):
        raise ValueError("this model has a decoder and writes nothing: give the text that its decoder reads")

    @nnx.jit
    def reading(model: Any, ids: Any, mask: Any) -> Any:
        return model.init_cache(1, MOST_WRITTEN + 1, model.encode(ids, mask), mask)

    cache = reading(model, ids, mask)
    end = model.config.get("eos_token_id")
    stop = [] if end is None else [end] if isinstance(end, int) else list(end)
    found = generate(
        model, np.array([[start]], np.int32), cache=cache, max_new_tokens=MOST_WRITTEN, stop_tokens=stop
    )
    return [start, *map(int, found.tokens[0][: int(found.lengths[0])])]
