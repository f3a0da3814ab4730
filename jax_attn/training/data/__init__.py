"""Data to train on: readers of files, tokenizers, splits, and batches by the number of their step."""

from jax_attn.training.data.batches import (
    GlobalBatches,
    OrderedBatches,
    ShuffledBatches,
    host_rows,
    iterate,
)
from jax_attn.training.data.examples import (
    IGNORED,
    ArrayExamples,
    Examples,
    PaddedExamples,
    WindowExamples,
    labelled_examples,
    pair_examples,
)
from jax_attn.training.data.images import ImageExamples, LabelledImages, read_images
from jax_attn.training.data.labelled import LabelledTexts, read_labelled_texts
from jax_attn.training.data.masking import MaskedBatches
from jax_attn.training.data.packing import packed_examples
from jax_attn.training.data.pairs import TextPairs, read_pairs
from jax_attn.training.data.plain import read_texts
from jax_attn.training.data.splits import hold_out, hold_out_end, require_two_classes
from jax_attn.training.data.tokenizer import TextTokenizer, character_tokenizer, load_tokenizer, train_bpe

__all__ = [
    "IGNORED",
    "ArrayExamples",
    "Examples",
    "GlobalBatches",
    "ImageExamples",
    "LabelledImages",
    "LabelledTexts",
    "MaskedBatches",
    "OrderedBatches",
    "PaddedExamples",
    "ShuffledBatches",
    "TextPairs",
    "TextTokenizer",
    "WindowExamples",
    "character_tokenizer",
    "hold_out",
    "hold_out_end",
    "host_rows",
    "iterate",
    "labelled_examples",
    "load_tokenizer",
    "packed_examples",
    "pair_examples",
    "read_images",
    "read_labelled_texts",
    "read_pairs",
    "read_texts",
    "require_two_classes",
    "train_bpe",
]


def __dir__() -> list[str]:
    return __all__
