"""Pre-train an encoder on plain text: it learns to fill in tokens that are hidden from it.

    python examples/train_masked_lm.py --out runs/encoder     # on the texts of the classifier, without their labels
    python examples/train_masked_lm.py --out runs/encoder --data mine.txt --unit line
    python examples/train_masked_lm.py --out runs/minilm --from-pretrained DIR     # go on with another's training
    python examples/train_masked_lm.py --framework both --steps 100

    python examples/train_classifier.py --from-pretrained runs/encoder/model       # what it is for

Of every text 15% of the tokens are chosen, others in every step; 80% of these are hidden, 10% replaced and 10% left
as they are, as BERT was trained. Your own text is a file or a folder of files; what is longer than `--max-tokens`
is cut into several pieces. What `train_classifier.py`, with the same data and seed, is tested on, is left out.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jax_attn.cli.example import run_example
from jax_attn.training import Result, Task, fit
from jax_attn.training.data import (
    IGNORED,
    MaskedBatches,
    OrderedBatches,
    PaddedExamples,
    ShuffledBatches,
    TextTokenizer,
    hold_out,
    read_texts,
)
from jax_attn.training.encoders import BERT_BASE, EncoderOptions, encoder_tokenizer, starting_encoder
from jax_attn.training.losses import summed_accuracy, summed_cross_entropy
from jax_attn.training.models import save_model
from jax_attn.training.samples import LABELLED, PLAIN, load_labelled_texts, load_texts
from jax_attn.training.task import Sum
from jax_attn.weights.twin import torch_twin


@dataclass(frozen=True, kw_only=True)
class Options(EncoderOptions):
    """What can be set; the comments are the text of `--help`."""

    preset: Literal["laptop", "pod"] = "laptop"  # sizes and steps; other flags change one of them
    data: str = "four-source"  # or sentiment or kjv; or a text file, .jsonl, .csv, or a folder of them
    text_column: str = "text"  # of .jsonl, .csv and .tsv
    unit: Literal["document", "paragraph", "line"] = (
        "document"  # a text is a file, a paragraph or a line of it
    )
    hidden: float = 0.15  # share of the tokens that are to be filled in

    steps: int = 1500
    eval_every: int | None = 500

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        super().__post_init__()
        self.require("hidden", 0.01, 0.9)


PRESETS = {
    "laptop": Options(),
    "pod": Options(
        preset="pod",
        **BERT_BASE,
        batch_size=2048,
        steps=100_000,
        eval_every=None,
        learning_rate=5e-4,
        schedule="cosine",
        warmup=0.02,
    ),
}


class Texts(NamedTuple):
    """Texts with hidden tokens."""

    tokenizer: TextTokenizer
    training: MaskedBatches
    test: MaskedBatches


def load_data(options: Options) -> Texts:
    """Read, split and tokenise the texts."""
    if options.data in LABELLED:
        texts = load_labelled_texts(options.data).texts
    elif options.data in PLAIN:
        texts = [verse for book in load_texts(options.data) for verse in book.splitlines()]
    else:
        texts = read_texts(options.data, options.text_column, options.unit)
    if len(texts) == 1:
        raise ValueError(f"{options.data} is one text: give more, or cut it with --unit paragraph or line")
    held = hold_out(texts, options.held_out, options.seed)
    parts = [[text for text, out in zip(texts, held, strict=True) if out == side] for side in (False, True)]
    tokenizer = encoder_tokenizer(options, parts[0])
    mask_id = tokenizer.mask_id
    if mask_id is None:
        raise ValueError(f"the tokenizer of {options.from_pretrained} has no mask token to hide others with")
    training, test = (pieces(tokenizer, part, options.max_tokens) for part in parts)
    print(f"{len(training)} pieces of text to train on, {len(test)} held out; {tokenizer.vocab_size} tokens")

    def masked(batches: Any, seed: int) -> MaskedBatches:
        return MaskedBatches(
            batches, mask_id, tokenizer.special_ids, tokenizer.vocab_size, seed, options.hidden
        )

    return Texts(
        tokenizer,
        masked(ShuffledBatches(training, options.batch_size, options.seed), options.seed),
        masked(OrderedBatches(test, options.batch_size), options.seed + 1),
    )


def pieces(tokenizer: TextTokenizer, texts: Sequence[str], length: int) -> PaddedExamples:
    """Texts as tokens, the long ones cut into pieces, each with the tokens that begin and end a text."""
    begin, end = ([] if each is None else [each] for each in (tokenizer.begin_id, tokenizer.end_id))
    room = length - len(begin) - len(end)
    found = [
        np.array([*begin, *row[start : start + room], *end], np.int32)
        for row in tokenizer.encode(texts, specials=False)
        for start in range(0, len(row), room)
    ]
    nothing = np.full(len(found), IGNORED, np.int32)  # what is hidden becomes the labels
    return PaddedExamples({"input_ids": found}, {"labels": nothing}, pad_id=tokenizer.pad_id)


def make_task(texts: Texts, options: Options) -> Task:
    """The model, its loss in both frameworks, and how it is saved."""
    model = starting_encoder(options, texts.tokenizer, "ForMaskedLM")
    return Task(
        model,
        loss,
        torch_loss=loss,
        metrics=figures,
        torch_metrics=figures,
        twin=lambda: torch_twin(model),
        save=lambda model, folder: save_model(folder, model, texts.tokenizer),
    )


def scores(model: Any, batch: Any) -> Any:
    """`(b, t, vocabulary)`, in either framework."""
    return model(batch["input_ids"], batch["mask"])


def loss(model: Any, batch: Any) -> Sum:
    """Cross-entropy summed over the hidden tokens, and their number; in either framework."""
    return summed_cross_entropy(scores(model, batch), batch["labels"])


def figures(model: Any, batch: Any) -> dict[str, Sum]:
    """Measured on held-out texts: the loss, and how many of the hidden tokens are right; in either framework."""
    logits, labels = scores(model, batch), batch["labels"]
    return {"loss": summed_cross_entropy(logits, labels), "accuracy": summed_accuracy(logits, labels)}


def train(options: Options) -> Result:
    """Read, train, test, and print."""
    texts = load_data(options)
    result = fit(make_task(texts, options), texts.training, options, texts.test)
    for name, figures in result.figures.items():
        print(
            f"{name}: {figures['accuracy']:.1%} of the hidden tokens right, {figures['loss']:.3f} nats a token"
        )
    if options.out is not None:
        print(f"fine-tune it: train_classifier.py --from-pretrained {options.out / 'model'}")
    return result


def main(arguments: Sequence[str] | None = None, program: str = "train_masked_lm.py") -> int:
    """The command line: 0 if all went well, 2 for bad input."""
    return run_example(program, PRESETS, train, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
