"""Sentences into token ids, with the `tokenizer.json` that lies beside a checkpoint's weights."""

import unicodedata
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from jax_attn.weights.config import read_config

TOKENIZER = "tokenizer.json"


def tokenize(
    folder: str | PathLike[str], sentences: Sequence[str]
) -> tuple[Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """The token ids of the sentences, padded to the longest, and which of them are not padding.

    Nothing is cut off: `tokenizer.json`'s own truncation and padding are turned off.

    Args:
        folder: a checkpoint's folder, with `config.json` and `tokenizer.json`.
        sentences: at least one.

    Returns:
        `(input_ids, attention_mask)`, both `(b, t)`; True = a token, to be attended to.

    Raises:
        FileNotFoundError: the folder has no `config.json` or no `tokenizer.json`.
        ValueError: no sentences, a sentence that is not text, one with more tokens than the model has
            positions, or with a token that the model's vocabulary lacks.
        ModuleNotFoundError: tokenizers is not installed; the `cli` extra brings it.
    """
    if isinstance(sentences, str) or not sentences:
        raise ValueError(f"sentences must be a list of at least one string, got {sentences!r}")
    for sentence in sentences:
        _require_text(sentence)
    folder = Path(folder)
    config = read_config(folder)
    encodings = _tokenizer(folder / TOKENIZER).encode_batch(list(sentences))
    for sentence, encoding in zip(sentences, encodings, strict=True):
        _require_fit(sentence, encoding.ids, config)

    shape = (len(encodings), max(len(encoding.ids) for encoding in encodings))
    ids = np.full(shape, config.get("pad_token_id") or 0, np.int32)
    mask = np.zeros(shape, np.bool_)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = True
    return ids, mask


class TokenizedText(NamedTuple):
    """One text, or two together, as a model reads it.

    Attributes:
        ids: `(t,)`.
        type_ids: `(t,)`, what a BERT calls segments.
        tokens: as the vocabulary has them.
        labels: to be read: byte pairs as text, and the text's own characters where a token is a part of one.
        segments: `(t,)`, of which text it is: 0 or 1.
        special: `(t,)`, whether the tokenizer added it.
    """

    ids: Int32[np.ndarray, "t"]
    type_ids: Int32[np.ndarray, "t"]
    tokens: tuple[str, ...]
    labels: tuple[str, ...]
    segments: tuple[int, ...]
    special: tuple[bool, ...]


def tokenize_text(folder: str | PathLike[str], text: str, pair: str | None = None) -> TokenizedText:
    """One text, or two as one input, token by token.

    Args:
        folder: a checkpoint's folder, with `config.json` and `tokenizer.json`.
        text: the first text.
        pair: the second one, behind it as the tokenizer joins them.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as `tokenize`; or the text gives no tokens.
    """
    texts = (text,) if pair is None else (text, pair)
    for each in texts:
        _require_text(each)
    config = read_config(Path(folder))
    tokenizer = _tokenizer(Path(folder) / TOKENIZER)
    encoding = tokenizer.encode(*texts)
    if not encoding.ids:
        raise ValueError(f"{_short(text)} has no tokens")
    _require_fit(text if pair is None else f"{text} {pair}", encoding.ids, config)
    segments: list[int] = []
    for place, of_text in enumerate(encoding.sequence_ids):
        typed = encoding.type_ids[place] if any(encoding.type_ids) else of_text
        segments.append((segments or [0])[-1] if typed is None else typed)
    pieces = [
        "" if of_text is None else texts[of_text][start:end]
        for of_text, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True)
    ]
    special = tuple(map(bool, encoding.special_tokens_mask))
    return TokenizedText(
        np.array(encoding.ids, np.int32),
        np.array(encoding.type_ids, np.int32),
        tuple(encoding.tokens),
        tuple(_label(tokenizer, *each) for each in zip(encoding.ids, encoding.tokens, pieces, strict=True)),
        tuple(segments),
        special,
    )


def labels_of(folder: str | PathLike[str], ids: Sequence[int]) -> tuple[str, ...]:
    """These tokens, to be read."""
    tokenizer = _tokenizer(Path(folder) / TOKENIZER)
    return tuple(_label(tokenizer, each, tokenizer.id_to_token(each) or str(each), "") for each in ids)


def _label(tokenizer: Any, token_id: int, token: str, piece: str) -> str:
    """The token to be read, which stands for `piece` of the text."""
    label = tokenizer.decode([token_id], skip_special_tokens=False).strip()
    if "\ufffd" in label:  # some of the bytes of a character
        label = piece.strip()
    bare = label.removeprefix("##")
    whole = piece.casefold()
    if not piece.isascii() and bare != whole and bare in unicodedata.normalize("NFD", whole):
        label = label.replace(bare, piece)  # a part of a Korean syllable, or a letter without its accent
    return label or token


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading text needs tokenizers: pip install tokenizers") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}, so its model can read no text")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _require_text(sentence: object) -> None:
    if not isinstance(sentence, str):
        raise ValueError(f"a sentence must be a string, got {type(sentence).__name__}")
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: what Python makes of command line bytes that are not UTF-8
        raise ValueError(f"{_short(sentence)} is not UTF-8 text") from None


def _require_fit(sentence: str, ids: Sequence[int], config: Mapping[str, Any]) -> None:
    positions, vocabulary = config.get("max_position_embeddings"), config.get("vocab_size")
    if positions is not None and len(ids) > positions:
        raise ValueError(f"{_short(sentence)} has {len(ids)} tokens, and the model {positions} positions")
    if vocabulary is not None and max(ids, default=0) >= vocabulary:
        raise ValueError(
            f"{_short(sentence)} has the token {max(ids)}, and the model a vocabulary of {vocabulary}: "
            f"the {TOKENIZER} belongs to another model"
        )


def _short(sentence: str) -> str:
    """The beginning of the sentence, in quotes and with nothing that a terminal cannot print."""
    printable = sentence.encode("utf-8", "backslashreplace").decode("utf-8")
    return f'"{printable}"' if len(printable) <= 40 else f'"{printable[:39]}…"'
