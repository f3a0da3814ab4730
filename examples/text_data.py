"""Labelled text for the examples: read it, split it, make tokens of it, pad it into batches of few shapes."""

import csv
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

DEFAULT_DATA = Path(__file__).parent.parent / ".cache" / "vaderSentiment-0.5.zip"
FETCH = "pip download --no-deps --no-binary :all: --dest {} vaderSentiment==0.5"
SOURCES = {"amazon": "Amazon", "movie": "movie", "nyt": "NYT", "tweets": "tweets"}
SPECIAL_TOKENS = ["[PAD]", "[CLS]"]  # in the order of their ids: 0 pads, 1 begins


class Corpus(NamedTuple):
    """Texts as tokens, their classes as numbers, and which of them are held out."""

    tokens: list[list[int]]
    labels: np.ndarray
    held_out: np.ndarray
    classes: list[str]
    vocab_size: int
    widths: list[int]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The number of tokens of each text in `rows`."""
        return np.array([len(self.tokens[row]) for row in rows])

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(b, t)` token ids, their mask, and `(b,)` classes."""
        return *pad([self.tokens[row] for row in rows], self.widths), self.labels[rows]


def load_corpus(
    path: Path,
    text_column: str,
    label_column: str,
    held_out: float,
    vocab_size: int,
    max_tokens: int,
    seed: int,
) -> Corpus:
    """Read, split and tokenise, and say what was found."""
    texts, labels = read_labelled_texts(path, text_column, label_column)
    classes, numbers = np.unique(labels, return_inverse=True)
    held = hold_out(texts, held_out, seed)
    training = [text for text, test in zip(texts, held, strict=True) if not test]
    tokenizer = train_tokenizer(training, vocab_size)
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    cut = sum(len(text) > max_tokens for text in tokens)
    print(f"{len(texts)} texts of {len(classes)} classes, {held.sum()} of them held out")
    print(
        f"{tokenizer.get_vocab_size()} tokens in the vocabulary; {cut} texts are cut to {max_tokens} tokens"
    )
    tokens = [text[:max_tokens] for text in tokens]
    widths = padded_widths([len(text) for text in tokens])
    return Corpus(tokens, numbers, held, classes.tolist(), tokenizer.get_vocab_size(), widths)


def read_labelled_texts(path: Path, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """Texts and their labels, from a table (CSV or TSV with a header) or from the archive of four sources.

    Raises:
        OSError: the file cannot be read.
        ValueError: text that is not UTF-8, a table without header, column, text or label, rows of another
            length than the header, a broken archive, or fewer than two labels.
    """
    if path == DEFAULT_DATA and not path.exists():
        raise ValueError(f"{path.name} is not there yet; fetch it with: {FETCH.format(relpath(path.parent))}")
    if path.name.endswith((".zip", ".tar.gz", ".tgz")):
        pairs = list(read_four_sources(path))
    else:
        pairs = list(read_table(path, text_column, label_column))
    if not pairs:
        raise ValueError(f"{path} holds no texts")
    texts, labels = map(list, zip(*pairs, strict=True))
    if len(set(labels)) < 2:
        raise ValueError(f"{path} must hold at least two labels to tell apart, got only {labels[0]!r}")
    return texts, labels


def read_table(path: Path, text_column: str, label_column: str) -> Iterator[tuple[str, str]]:
    """(text, label) of each row of a CSV; or of a TSV, where the header holds a tab."""
    content = decode(path.read_bytes(), path)
    delimiter = "\t" if "\t" in content.partition("\n")[0] else ","
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        for option, column in (("--text-column", text_column), ("--label-column", label_column)):
            if header.count(column) != 1:
                raise ValueError(f"{path} must have one column {column!r} ({option}), its header is {header}")
        text, label = header.index(text_column), header.index(label_column)
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}, line {rows.line_num}: {len(row)} fields under {len(header)} columns"
                )
            if row and not (row[text].strip() and row[label].strip()):
                raise ValueError(f"{path}, line {rows.line_num}: the text or the label is empty")
            if row:
                yield row[text], row[label].strip()
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}") from None


def read_four_sources(path: Path) -> Iterator[tuple[str, str]]:
    """(text, source) of the rated snippets that accompany Hutto & Gilbert (ICWSM 2014).

    `path` is the source distribution of vaderSentiment, or the `hutto_ICWSM_2014.tar.gz` inside it.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(content)) as outer:
                inner = [name for name in outer.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz")]
                content = outer.read(inner[0]) if inner else b""
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {file.name: archive.extractfile(file).read() for file in archive if file.isfile()}  # ty: ignore
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError):
        raise ValueError(f"{path} is broken, or not the archive of vaderSentiment 0.5") from None
    for name, lines in sorted(files.items()):
        stem = Path(name).name
        if stem.endswith("_GroundTruth.txt"):
            source = next(label for prefix, label in SOURCES.items() if stem.startswith(prefix))
            for line in decode(lines, path).rstrip().split("\n"):
                _number, _mean_rating, text = line.rstrip("\r").split("\t")
                yield text, source


def decode(content: bytes, path: Path) -> str:
    """UTF-8 text, without the byte-order mark that spreadsheets write."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is {content[error.start]:#x}"
        ) from None


def hold_out(texts: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which texts to keep for the test, as booleans: `share` of the *different* texts, drawn by `seed`.

    Texts that differ in case or spacing alone count as one and stay on one side, so that no text is both
    trained on and tested on.
    """
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(" ".join(text.split()).casefold(), len(numbers)) for text in texts])
    if len(numbers) < 2:
        raise ValueError("there must be at least two different texts, one to train on and one to test on")
    held_out = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    return np.isin(same, np.random.default_rng(seed).permutation(len(numbers))[:held_out])


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte pairs that are frequent in these texts, case kept; each text will begin with [CLS].

    All 256 bytes are in the vocabulary, so nothing is unknown, in any language. (Not WordPiece: its trainer
    numbers the pieces anew in each run, and even chooses others, so that no seed could fix a run.)
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return tokenizer


def padded_widths(lengths: Sequence[int], shapes: int = 4) -> list[int]:
    """At most `shapes` widths, each for an equal share of the texts: `jit` compiles once for each."""
    quantiles = np.quantile(lengths, np.arange(1, shapes + 1) / shapes)
    return sorted({min(-int(-q // 8) * 8, max(lengths)) for q in quantiles})


def pad(tokens: Sequence[Sequence[int]], widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """`(b, t)` token ids and the mask of what is no padding; `t` is the first of `widths` that holds all."""
    longest = max(map(len, tokens))
    ids = np.zeros((len(tokens), min(width for width in widths if width >= longest)), np.int32)
    for row, text in zip(ids, tokens, strict=True):
        row[: len(text)] = text
    return ids, np.arange(ids.shape[1]) < np.array([[len(text)] for text in tokens])


def shuffled_batches(lengths: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers, `batch_size` at a time and without end, each text once an epoch.

    Up to 16 batches are drawn together and sorted by length before they are cut, so that a batch holds texts
    of about one length and little padding.
    """
    random = np.random.default_rng(seed)
    batch_size = min(batch_size, len(lengths))
    drawn = batch_size * min(16, len(lengths) // batch_size)
    queue = np.array([], int)
    while True:
        while len(queue) < drawn:
            queue = np.concatenate([queue, random.permutation(len(lengths))])
        rows, queue = queue[:drawn], queue[drawn:]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        yield from random.permutation(rows.reshape(-1, batch_size))
