"""What a model of a checkpoint is called with: text, an image or audio, as its own signature says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.weights.tokenizer import TOKENIZER, tokenize

SENTENCES = (
    "That is a happy person",
    "That is a very happy individual",
    "Today is a sunny day",
    "The committee postponed its decision until the next quarterly meeting.",
    "저 사람은 행복합니다",
    "오늘은 날씨가 맑습니다",
)
BATCH, TOKENS, SHORTER = 2, 12, 7  # of what is drawn; the second sequence is the shorter one
POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")


@dataclass(frozen=True)
class Inputs:
    """A call of a model.

    Attributes:
        case: the call of ours.
        names: what Hugging Face calls each of its arguments.
        said: what it is, in a few words.
        sentences: the texts, where it is of texts that were tokenized.
    """

    case: Case
    names: tuple[str, ...]
    said: str
    sentences: tuple[str, ...] = ()

    @property
    def mask(self) -> np.ndarray | None:
        """Which tokens of what is given back are no padding; None is all."""
        named = dict(zip(self.names, self.case.args, strict=True))
        return None if "decoder_input_ids" in named else named.get("attention_mask")


def inputs_of(
    module: Any,
    folder: Path,
    config: Mapping[str, Any],
    sentences: Sequence[str] | None = None,
    seed: int = 0,
) -> Inputs:
    """What to call `module` with.

    Args:
        module: any model that `from_pretrained` makes.
        folder: its checkpoint, whose `tokenizer.json` reads the sentences; without one ids are drawn.
        config: its `config.json`.
        sentences: what a model of texts is to read; None is a few of ours.
        seed: of what is drawn.

    Raises:
        ValueError: sentences are given to a model that reads none, or they do not fit it.
        FileNotFoundError: sentences are given and the folder has no `tokenizer.json`.
    """
    rng = np.random.default_rng(seed)
    taken = parameters_of(module)
    hears = "num_mel_bins" in config
    if sentences and (hears or taken[0] == "pixel_values"):
        raise ValueError(f"{folder} takes no sentences, but {'audio' if hears else 'images'}")
    if taken[0] == "pixel_values":
        *size, channels = innermost(module).embeddings.image_shape
        pixels = rng.standard_normal((BATCH, channels, *size))
        return Inputs(Case("image", (pixels,)), ("pixel_values",), f"{BATCH} images of noise")
    if hears:
        frames = 2 * config["max_source_positions"]
        features = rng.standard_normal((1, config["num_mel_bins"], frames))
        said = f"{frames} frames of noise"
        if taken[0] == "features":
            return Inputs(Case("audio", (features,)), ("input_features",), said)
        tokens = min(TOKENS, config.get("max_target_positions") or TOKENS)
        ids = rng.integers(config["vocab_size"], size=(1, tokens))
        return Inputs(Case("audio", (features, ids)), ("input_features", "decoder_input_ids"), said)
    read: tuple[str, ...] = ()
    if sentences or (folder / TOKENIZER).is_file():
        read = tuple(sentences or SENTENCES)
        ids, mask = tokenize(folder, read)
        said = f"{len(read)} sentence{'s' if len(read) > 1 else ''}, up to {ids.shape[1]} tokens"
    else:
        tokens = min([TOKENS, *(config[name] for name in POSITIONS if config.get(name))])
        ids = rng.integers(config["vocab_size"], size=(BATCH, tokens)).astype(np.int32)
        mask = np.arange(tokens) < np.array([[tokens], [min(SHORTER, tokens)]])
        said = f"{BATCH} sequences of random ids, for there is no {TOKENIZER}"
    if "decoder_input_ids" not in taken:
        return Inputs(Case("text", (ids, mask)), ("input_ids", "attention_mask"), said, read)
    target = rng.integers(config["vocab_size"], size=(len(ids), SHORTER)).astype(np.int32)
    names = ("input_ids", "decoder_input_ids", "attention_mask")
    return Inputs(Case("text", (ids, target, mask)), names, f"{said}, and random ids to write", read)


def innermost(module: Any) -> Any:
    """The model without its heads."""
    while hasattr(module, "model"):
        module = module.model
    return module


def parameters_of(module: Any) -> list[str]:
    """The names of what a model takes, which its head takes over."""
    return list(signature(innermost(module)).parameters)
