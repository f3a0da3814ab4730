"""Examples by their row, and how rows of them become a batch.

input_ids (b, t)            tokens                                    mask (b, t)   True = a token, False = padding
source_ids, target_ids      the same of pairs                         source_mask, target_mask
labels (b,) or (b, t)       classes, or the tokens to predict; IGNORED where there is nothing to predict
segment_ids (b, t)          which of the texts of a packed row a token is of, from 1; 0 is padding
positions (b, t)            where a token stands in its text, from 0
pixel_values (b, c, h, w)   images
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_attn.training.data.widths import padded_widths

IGNORED = -100
"""A target that no loss is taken of: the `ignore_index` of `cross_entropy`, here and in torch."""

MASKS = {"input_ids": "mask", "source_ids": "source_mask", "target_ids": "target_mask"}
Tokens = Sequence[int] | np.ndarray


class Examples:
    """What is drawn from: `len(examples)` rows."""

    lengths: np.ndarray | None = None  # (n,) what batches are grouped by, so that they hold little padding

    def __len__(self) -> int:
        raise NotImplementedError

    def epoch(self, seed: int, number: int) -> np.ndarray:
        """The rows of an epoch, each once, in an order that `seed` and the epoch's number fix."""
        return np.random.default_rng([seed, number]).permutation(len(self))

    def in_order(self) -> np.ndarray:
        """Every row once, the short ones first."""
        return np.arange(len(self)) if self.lengths is None else np.argsort(self.lengths, kind="stable")

    def collate(self, rows: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of `rows`, in the shapes that the global batch has, whose rows are `among`."""
        raise NotImplementedError


class PaddedExamples(Examples):
    """Sequences of tokens, padded to the width of their batch; and arrays with a value for each row.

    Args:
        sequences: by name, the tokens of each row: `input_ids`, or `source_ids` and `target_ids`, each of which
            gets a mask; `labels` are as long as the last of them, and padded with IGNORED.
        arrays: by name, `(n, ...)` values.
        pad_id: what pads tokens.
        shapes: how many widths batches may have. `jit` compiles once for each.
    """

    def __init__(
        self,
        sequences: Mapping[str, Sequence[Tokens]],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        pad_id: int = 0,
        shapes: int = 4,
    ):
        self.sequences, self.arrays, self.pad_id = sequences, dict(arrays or {}), pad_id
        counts = {len(rows) for rows in (*sequences.values(), *self.arrays.values())}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"sequences and arrays must have one and the same number of rows, got {counts}")
        self._lengths = {name: np.array([len(row) for row in rows]) for name, rows in sequences.items()}
        inputs = {name: lengths for name, lengths in self._lengths.items() if name in MASKS}
        self.lengths = np.sum(list(inputs.values()), axis=0)
        widths = padded_widths(inputs, shapes)
        self.widths = {name: widths.get(name, widths[[*inputs][-1]]) for name in sequences}

    def __len__(self) -> int:
        return len(next(iter(self.sequences.values())))

    def collate(self, rows: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        """The batch; all its sequences have the same rank among their widths."""
        rank = max(
            int(np.searchsorted(widths, self._lengths[name][among].max()))
            for name, widths in self.widths.items()
        )
        batch = {}
        for name, sequence in self.sequences.items():
            fill = IGNORED if name == "labels" else self.pad_id
            lengths = self._lengths[name][rows]
            padded = np.full((len(rows), self.widths[name][rank]), fill, np.int32)
            for out, row, length in zip(padded, rows, lengths, strict=True):
                out[:length] = sequence[row]
            batch[name] = padded
            if name in MASKS:
                batch[MASKS[name]] = np.arange(padded.shape[1]) < lengths[:, None]
        return batch | {name: values[rows] for name, values in self.arrays.items()}


def labelled_examples(
    tokens: Sequence[Tokens], labels: np.ndarray, *, pad_id: int = 0, shapes: int = 4
) -> PaddedExamples:
    """Texts to classify: `input_ids`, `mask` and `labels (b,)`."""
    return PaddedExamples({"input_ids": tokens}, {"labels": labels}, pad_id=pad_id, shapes=shapes)


def pair_examples(
    sources: Sequence[Tokens], targets: Sequence[Tokens], *, pad_id: int = 0, shapes: int = 4
) -> PaddedExamples:
    """Texts to translate: `source_ids`, `target_ids`, their masks, and `labels (b, t)`.

    Targets begin with the token that begins a text and end with the one that ends it; `target_ids` are all
    but the last, `labels` all but the first.
    """
    sequences = {
        "source_ids": sources,
        "target_ids": [row[:-1] for row in targets],
        "labels": [row[1:] for row in targets],
    }
    return PaddedExamples(sequences, pad_id=pad_id, shapes=shapes)


class ArrayExamples(Examples):
    """Arrays whose rows are the examples, such as packed texts."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def collate(self, rows: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        """The rows."""
        return {name: values[rows] for name, values in self.arrays.items()}


class WindowExamples(Examples):
    """Windows of one long text: `input_ids` and `labels (b, t)`, the token after each.

    A row is the token at which a window begins. The windows of an epoch do not overlap; each epoch begins at
    another of the first `length` tokens.
    """

    def __init__(self, tokens: Tokens, length: int):
        self.tokens, self.length = np.asarray(tokens), length  # a memory map stays one
        if len(self.tokens) < 2:
            raise ValueError(f"the text must have at least two tokens, got {len(self.tokens)}")
        if len(self.tokens) <= length:
            raise ValueError(
                f"the text has {len(self.tokens)} tokens, too few for one window of {length}; give a longer text "
                "or shorter windows"
            )

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - self.length) // self.length)

    def epoch(self, seed: int, number: int) -> np.ndarray:
        """Where the windows of an epoch begin."""
        room = len(self.tokens) - len(self) * self.length
        first = np.random.default_rng([seed, number, 1]).integers(min(room, self.length))
        return first + self.length * super().epoch(seed, number)

    def in_order(self) -> np.ndarray:
        """The windows from the text's beginning."""
        return np.arange(0, len(self.tokens) - self.length, self.length)

    def collate(self, rows: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        """The windows that begin at `rows`."""
        windows = self.tokens[rows[:, None] + np.arange(self.length + 1)].astype(np.int32)
        return {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}
