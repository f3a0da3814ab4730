"""Texts to tokens and back: characters, byte pairs, or the tokenizer of a checkpoint folder."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

# Our own special tokens, in the order of their ids, and what transformers calls their roles.
SPECIALS = {"pad": "[PAD]", "unknown": "[UNK]", "begin": "[CLS]", "end": "[SEP]", "mask": "[MASK]"}
ROLES = {
    "pad": ("pad_token",),
    "unknown": ("unk_token",),
    "begin": ("bos_token", "cls_token"),
    "end": ("eos_token", "sep_token"),
    "mask": ("mask_token",),
}
USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unknown": ("[UNK]", "<unk>"),
    "begin": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "end": ("[SEP]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


class TextTokenizer:
    """A `tokenizers.Tokenizer`, and the ids of its special tokens.

    Args:
        tokenizer: padding and truncation are turned off.
        specials: by role (pad, unknown, begin, end, mask), the token. Roles that are missing have no token.

    Attributes:
        pad_id, unknown_id, begin_id, end_id, mask_id: ids; None where there is no such token, and 0 for padding.
    """

    def __init__(self, tokenizer: Tokenizer, specials: dict[str, str]):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.specials = tokenizer, specials
        ids = {role: tokenizer.token_to_id(token) for role, token in specials.items()}
        self.pad_id: int = ids.get("pad") or 0
        self.unknown_id, self.begin_id = ids.get("unknown"), ids.get("begin")
        self.end_id, self.mask_id = ids.get("end"), ids.get("mask")

    @cached_property
    def special_ids(self) -> list[int]:
        """The ids of all tokens that are no text."""
        added = self.tokenizer.get_added_tokens_decoder()
        return sorted(number for number, token in added.items() if token.special)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def encode(
        self, texts: Sequence[str], max_tokens: int | None = None, specials: bool = True
    ) -> list[np.ndarray]:
        """Return the tokens of each text, int32.

        Args:
            texts: one or more.
            max_tokens: longer ones are cut; their last token stays, where it is a special one.
            specials: whether texts begin and end with the tokens for that.
        """
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=specials)
        tokens = [np.asarray(encoding.ids, np.int32) for encoding in encoded]
        if max_tokens is None:
            return tokens
        return [self._cut(row, max_tokens) if len(row) > max_tokens else row for row in tokens]

    def _cut(self, tokens: np.ndarray, max_tokens: int) -> np.ndarray:
        last = tokens[-1:] if tokens[-1] in self.special_ids else tokens[:0]
        return np.concatenate([tokens[: max_tokens - len(last)], last])

    def prompt(self, text: str) -> np.ndarray:
        """The tokens of a text that is to be continued: with a beginning, and no end."""
        begin = [] if self.begin_id is None else [self.begin_id]
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([*begin, *ids], np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text, without special tokens."""
        return self.tokenizer.decode([int(token) for token in tokens])

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `load_tokenizer` and transformers read them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        names = {name: token for role, token in self.specials.items() for name in ROLES[role]}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path | str) -> TextTokenizer:
    """Read the `tokenizer.json` of a checkpoint folder, or a file of that format.

    Which tokens are special comes from `tokenizer_config.json` beside it; without one, from their usual names.

    Raises:
        ValueError: no such file, or not of that format.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    if not path.exists():
        raise ValueError(f"there is no {path}; name a folder that holds a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no tokenizer.json of the tokenizers library: {reason}") from None
    config: dict[str, Any] = {}
    beside = path.parent / "tokenizer_config.json"
    if beside.exists():
        config = json.loads(beside.read_text(encoding="utf-8"))
    specials = {}
    for role, names in ROLES.items():
        told = (config.get(name) for name in names)
        written = [token["content"] if isinstance(token, dict) else token for token in told if token]
        found = [token for token in (*written, *USUAL[role]) if tokenizer.token_to_id(token) is not None]
        if found:
            specials[role] = found[0]
    return TextTokenizer(tokenizer, specials)


def train_bpe(texts: Iterable[str], vocab_size: int, *, lowercase: bool = False) -> TextTokenizer:
    """Learn byte pairs that are frequent in these texts; texts will begin with [CLS] and end with [SEP].

    All 256 bytes are in the vocabulary, so nothing is unknown, in any language, and the same texts give the same
    vocabulary. (Not WordPiece: its trainer gives another vocabulary in every run.)

    Args:
        texts: to learn from.
        vocab_size: at most so many tokens.
        lowercase: whether capitals are written as small letters, of these texts and of all that come.

    Raises:
        ValueError: a vocabulary smaller than the special tokens and the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIALS) + len(alphabet)
    if vocab_size < least:
        raise ValueError(
            f"--vocab-size must be at least {least}, {len(SPECIALS)} special tokens and {len(alphabet)} bytes, got "
            f"{vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _own(tokenizer)


def character_tokenizer(texts: Iterable[str]) -> TextTokenizer:
    """Every character of these texts is a token, in the order of their code points; any other is [UNK]."""
    characters = sorted(set().union(*texts))
    tokens = [*SPECIALS.values(), *characters]
    tokenizer = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, [], unk_token=SPECIALS["unknown"])
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIALS.values()))
    return _own(tokenizer)


def _own(tokenizer: Tokenizer) -> TextTokenizer:
    begin, end = SPECIALS["begin"], SPECIALS["end"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )
    return TextTokenizer(tokenizer, dict(SPECIALS))
