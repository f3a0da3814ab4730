"""The attention of a run of `jax-attn train translator`, whose folder is the program's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flax import nnx

from jax_attn.cli.train import load_example
from jax_attn.visualize.capture import record_attention
from jax_attn.visualize.record import AttentionRecord
from jax_attn.visualize.texts import axis_of, checkpoint_folder
from jax_attn.visualize.torch_weights import torch_attention_weights
from jax_attn.weights.config import CONFIG, read_config
from jax_attn.weights.state_dict import state_dict
from jax_attn.weights.tokenizer import TokenizedText, tokenize_text

MODEL_TYPE = "translator"  # as the program writes it into config.json


def is_translator(folder: Path) -> bool:
    """Whether a checkpoint was written by the translator's program."""
    return (folder / CONFIG).is_file() and read_config(folder)["model_type"] == MODEL_TYPE


def record_translation(checkpoint: Path, text: str, pair: str | None, against_torch: bool) -> AttentionRecord:
    """Let a translator read `text` and write `pair`, or its own translation, and keep its attention.

    Raises:
        ValueError: a text has no tokens, or more than the translator has positions.
    """
    program, folder = load_example("train_translator"), checkpoint_folder(checkpoint)
    model, tokenizer = program.load_translator(folder)
    read = _within(model, tokenize_text(folder, text))
    written = None if pair is None else _within(model, _without_end(tokenize_text(folder, pair)))
    if written is None:
        options = replace(program.Options(), max_tokens=model.max_positions)
        (translation,) = program.translate(model, tokenizer, [text], options)
        if not translation.strip():
            raise ValueError("it translates the text to nothing: give what its decoder reads as --pair")
        # One that came to no end may have more tokens when it is read.
        written = _cut(_without_end(tokenize_text(folder, translation)), model.max_positions)
    ids = read.ids[None], written.ids[None]
    other = torch_attention_weights(twin_of(folder, model), *ids) if against_torch else None
    return record_attention(
        model,
        *ids,
        tokens=axis_of(written),
        context_tokens=axis_of(read),
        title=checkpoint.resolve().name,
        other=other,
    )


def _within(model: Any, text: TokenizedText) -> TokenizedText:
    if len(text.ids) > model.max_positions:
        raise ValueError(f"the translator has {model.max_positions} positions, got {len(text.ids)} tokens")
    return text


def _without_end(text: TokenizedText) -> TokenizedText:
    """What a decoder reads: the token that ends a text is only written."""
    return _cut(text, len(text.ids) - 1)


def _cut(text: TokenizedText, most: int) -> TokenizedText:
    return TokenizedText._make(each[:most] for each in text)


def twin_of(folder: Path, model: nnx.Module) -> Any:
    """Torch's twin of a translator, with its weights."""
    twin = load_example("train_translator").read_part(folder).build("torch_ref")
    twin.load_state_dict(state_dict(model))
    return twin.eval()
