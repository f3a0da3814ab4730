"""Train the Transformer of 2017 to translate, in JAX, in torch, or in both side by side.

    python examples/train_translator.py --out runs/ko                         # names of emoji, English to Korean
    python examples/train_translator.py --out runs/ko --translate "sleeping cat"            # once it is trained
    python examples/train_translator.py --pair en-de
    python examples/train_translator.py --data pairs.tsv --source-column en --target-column fr
    python examples/train_translator.py --data train.en --targets train.fr    # line by line
    python examples/train_translator.py --framework both --steps 100

One table embeds the tokens of both languages and scores the next token; the learning rate climbs, then falls with
the root of the step; targets are smoothed; translations are searched for with beams. They are scored on sources
that training has not seen in any spelling.

Expected with the defaults: 60% of 406 held-out names translated letter for letter, chrF 88, BLEU 87 of characters.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from jax_attn.cli.example import run_example
from jax_attn.models import Part, Transformer
from jax_attn.models.generation import beam_search, gnmt_penalty
from jax_attn.training import Result, Task, TrainingOptions, fit
from jax_attn.training.data import (
    OrderedBatches,
    ShuffledBatches,
    TextPairs,
    TextTokenizer,
    hold_out,
    load_tokenizer,
    pair_examples,
    train_bpe,
)
from jax_attn.training.losses import (
    summed_accuracy,
    summed_cross_entropy,
    torch_summed_cross_entropy,
)
from jax_attn.training.making import precision
from jax_attn.training.samples import load_pairs
from jax_attn.training.task import Sum
from jax_attn.weights import load_state_dict, numpy_state_dict
from jax_attn.weights.files import write_safetensors


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What can be set; the comments are the text of `--help`."""

    preset: Literal["laptop", "pod"] = "laptop"  # other flags change one option of it
    pair: Literal["en-ko", "en-de"] = "en-ko"  # of the names of emoji, where no --data is given
    data: Path | None = None  # pairs: .csv, .tsv or .jsonl; with --targets a text of one source a line
    targets: Path | None = None  # a text of one target a line
    source_column: str = "source"  # of --data
    target_column: str = "target"  # of --data
    held_out: float = 0.1  # share of the different sources that is kept for the test
    vocab_size: int = (
        2000  # bytes and frequent byte pairs of both languages, learned from the pairs trained on
    )
    max_tokens: int = 64  # longer sources and targets are cut
    hidden_size: int = 128  # width of the model; its feed-forward layers are four times as wide
    num_layers: int = 2  # of the encoder, and of the decoder
    num_heads: int = 4  # they divide the width
    dropout: float = 0.1  # after embeddings, attention and feed-forward
    norm_placement: Literal["post", "pre"] = (
        "post"  # post as in 2017; pre has a norm behind the last layer too
    )
    label_smoothing: float = 0.1  # share of a target's probability that all tokens have together
    scan: bool = False  # layers as a loop: compiled once in place of once a layer
    remat: bool = False  # layers are computed again in the backward pass, to save memory
    num_beams: int = 4  # of the search
    length_penalty: float = 0.6  # of the search; above 0 longer translations are better
    translate: str | None = None  # only translate this, with the finished run in --out

    steps: int = 800
    batch_size: int = 64  # pairs in a step, over all devices
    learning_rate: float = 2e-3
    schedule: Literal["linear", "cosine", "inverse-sqrt", "wsd"] = "inverse-sqrt"
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    ema: float | None = 0.995  # running mean of the weights, for the mean of the last checkpoints in 2017

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        super().__post_init__()
        for name in ("hidden_size", "num_layers", "num_heads", "num_beams"):
            self.require(name, 1, 10**6)
        self.require("max_tokens", 3, 10**6)
        self.require("dropout", 0.0, 0.9)
        self.require("label_smoothing", 0.0, 1.0)
        if self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise ValueError(
                f"--num-heads must divide --hidden-size, which is even, got {self.num_heads} and {self.hidden_size}"
            )
        if self.targets is not None and self.data is None:
            raise ValueError("--targets needs --data: the file of the sources")
        if self.translate is not None and (self.out is None or not self.translate.strip()):
            raise ValueError("--translate takes a text, and --out the folder of a finished run")


MODEL_TYPE = "translator"  # by which `jax-attn show` knows its folder

PRESETS = {
    "laptop": Options(),
    "pod": Options(
        preset="pod",
        vocab_size=37_000,
        max_tokens=256,
        hidden_size=1024,
        num_layers=6,
        num_heads=16,
        dropout=0.3,
        dtype="bfloat16",
        scan=True,
        batch_size=4096,
        steps=100_000,
        learning_rate=7e-4,
        warmup=0.04,
    ),
}


class Pairs(NamedTuple):
    """Pairs of texts, a tokenizer of both languages, and which pairs are held out."""

    texts: TextPairs
    tokenizer: TextTokenizer
    held_out: np.ndarray

    def examples(self, held_out: bool, options: Options) -> Any:
        """Those that are held out, or the others, as tokens."""
        tokens = [self.tokenizer.encode(self.of(texts, held_out), options.max_tokens) for texts in self.texts]
        shapes = 1 if held_out else 4  # each is compiled for, which has to pay
        return pair_examples(*tokens, pad_id=self.tokenizer.pad_id, shapes=shapes)

    def of(self, texts: Sequence[str], held_out: bool) -> list[str]:
        """Those of the texts that are held out, or the others."""
        return [text for text, held in zip(texts, self.held_out, strict=True) if held == held_out]


def load_data(options: Options) -> Pairs:
    """Read and split the pairs, and learn a vocabulary."""
    sample = f"emoji-{options.pair[-2:]}"
    texts = load_pairs(options.data or sample, options.targets, options.source_column, options.target_column)
    held_out = hold_out(texts.sources, options.held_out, options.seed)
    learned_from = [text for side in texts for text, held in zip(side, held_out, strict=True) if not held]
    pairs = Pairs(texts, train_bpe(learned_from, options.vocab_size), held_out)
    count = int(pairs.held_out.sum())
    print(
        f"{len(texts.sources) - count} pairs to train on, {count} held out, "
        f"{pairs.tokenizer.vocab_size} different tokens"
    )
    return pairs


def make_model(vocab_size: int, options: Options) -> Part:
    """The Transformer, in either framework."""
    return Part(
        Transformer,
        vocab_size=vocab_size,
        embed_dim=options.hidden_size,
        num_heads=options.num_heads,
        hidden_dim=4 * options.hidden_size,
        num_layers=options.num_layers,
        dropout=options.dropout,
        max_positions=options.max_tokens,
        norm_placement=options.norm_placement,
        final_norm=options.norm_placement == "pre",
        scan=options.scan,
        remat=options.remat,
    )


def make_task(pairs: Pairs, options: Options) -> Task:
    """The model, its loss in both frameworks, and what is measured on held-out pairs."""
    model = make_model(pairs.tokenizer.vocab_size, options)
    return Task(
        model,
        partial(loss, label_smoothing=options.label_smoothing),
        partial(torch_loss, label_smoothing=options.label_smoothing),
        metrics,
        torch_metrics,
        score=lambda figures: figures["tokens right"],
        count_tokens=lambda batch: int(batch["source_mask"].sum() + batch["target_mask"].sum()),
        save=lambda trained, folder: save_translator(folder, trained, pairs.tokenizer, model.arguments),
    )


def scores(model: Any, batch: Any) -> Any:
    """`(b, t, vocab_size)`, of the token after each of the targets', in either framework."""
    return model(batch["source_ids"], batch["target_ids"], batch["source_mask"], batch["target_mask"])


def loss(model: Any, batch: Any, label_smoothing: float) -> Sum:
    """Cross-entropy with the next token, summed over the targets' tokens, and their number."""
    return summed_cross_entropy(scores(model, batch), batch["labels"], label_smoothing)


def torch_loss(model: Any, batch: Any, label_smoothing: float) -> Sum:
    """The same in torch."""
    return torch_summed_cross_entropy(scores(model, batch), batch["labels"], label_smoothing)


def metrics(model: Any, batch: Any) -> dict[str, Sum]:
    """The loss without smoothing, and how many tokens are the likeliest after those before them."""
    found, labels = scores(model, batch), batch["labels"]
    return {"loss": summed_cross_entropy(found, labels), "tokens right": summed_accuracy(found, labels)}


def torch_metrics(model: Any, batch: Any) -> dict[str, Sum]:
    """The same in torch."""
    found, labels = scores(model, batch), batch["labels"]
    return {"loss": torch_summed_cross_entropy(found, labels), "tokens right": summed_accuracy(found, labels)}


def translate(model: Any, tokenizer: TextTokenizer, sources: Sequence[str], options: Options) -> list[str]:
    """Look for the likeliest translations of the sources, with beams.

    The penalty of length is the one that the 2017 Transformer was decoded with.
    """
    tokens = tokenizer.encode(sources, options.max_tokens)
    width = max(map(len, tokens))
    room = min(width + 50, options.max_tokens - 1)  # as many tokens more than the source has as in 2017
    batch_size = min(len(tokens), options.batch_size)
    found = []
    for start in range(0, len(tokens), batch_size):
        # The last batch is filled up: another size would compile again.
        rows = [tokens[row % len(tokens)] for row in range(start, start + batch_size)]
        source = np.array([np.pad(row, (0, width - len(row))) for row in rows])
        mask = np.arange(width) < np.array([[len(row)] for row in rows])
        beams = beam_search(
            model,
            np.full((len(rows), 1), tokenizer.begin_id, np.int32),
            cache=read(model, source, mask, room),
            max_new_tokens=room,
            num_beams=options.num_beams,
            length_penalty=gnmt_penalty(options.length_penalty),
            stop_tokens=[tokenizer.end_id],  # ty: ignore
            pad_token_id=tokenizer.pad_id,
        )
        found += [tokenizer.decode(tokens).strip() for tokens in beams.tokens[:, 0]]
    return found[: len(sources)]


@partial(nnx.jit, static_argnames="length")
def read(model: Any, source: Any, mask: Any, length: int) -> Any:
    """A cache for `length` tokens that attend to the sources."""
    return model.init_cache(len(source), length, model.encode(source, mask), mask)


def score(translations: Sequence[str], references: Sequence[str]) -> str:
    """How many are the reference letter for letter, and sacrebleu's chrF and BLEU.

    BLEU compares words, by sacrebleu's default rules ("13a"); where references have letters beyond the alphabets of
    Europe it compares characters ("char"): for Korean its rules for words need a dictionary that is not there.
    """
    from sacrebleu import BLEU, CHRF

    exact = sum(map(eq, translations, references)) / len(references)
    tokenize = "char" if any(letter >= "\u1100" for text in references for letter in text) else "13a"
    chrf, bleu = (
        metric.corpus_score(translations, [references]).score for metric in (CHRF(), BLEU(tokenize=tokenize))
    )
    return f"{exact:.1%} exact, chrF {chrf:.1f}, BLEU {bleu:.1f} (sacrebleu, tokenize={tokenize})"


def save_translator(folder: Path, model: Any, tokenizer: TextTokenizer, arguments: Mapping[str, Any]) -> None:
    """Write the weights by their names in torch, the tokenizer, and in `config.json` the arguments of the model."""
    tokenizer.save(folder)
    write_safetensors(folder / "model.safetensors", numpy_state_dict(model))
    config = {"model_type": MODEL_TYPE, **arguments}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_translator(folder: Path) -> tuple[Any, TextTokenizer]:
    """Read what `save_translator` wrote."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no finished run in {folder.parent}: train one with --out {folder.parent}")
    model = read_part(folder).build("jax_attn", rngs=nnx.Rngs(0))
    load_state_dict(model, load_file(folder / "model.safetensors")).eval()
    return model, load_tokenizer(folder)


def read_part(folder: Path) -> Part:
    """The Transformer of a folder, in either framework and without its weights."""
    arguments = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Part(Transformer, **{name: arguments[name] for name in arguments.keys() - {"model_type"}})


def train(options: Options) -> Result | None:
    """Read, train, test, and print; or only translate, with a run that is finished."""
    if options.translate is not None:
        assert options.out is not None
        model, tokenizer = load_translator(options.out / "model")
        most = min(options.max_tokens, model.max_positions)
        print(*translate(model, tokenizer, [options.translate], replace(options, max_tokens=most)), sep="\n")
        return None
    pairs = load_data(options)
    batches = ShuffledBatches(pairs.examples(False, options), options.batch_size, options.seed)
    held_out = OrderedBatches(pairs.examples(True, options), options.batch_size)
    result = fit(make_task(pairs, options), batches, options, held_out)
    if "jax" in result.trainers:
        model = result.trainers["jax"].gathered()
        if jax.process_index() == 0:
            with precision(options):
                report(model, pairs, options)
    return result


def report(model: Any, pairs: Pairs, options: Options) -> None:
    """Translate the held-out sources, and print how good the translations are, and some of them."""
    sources, references = (pairs.of(texts, True) for texts in pairs.texts)
    translations = translate(model, pairs.tokenizer, sources, options)
    print(score(translations, references))
    for row in np.random.default_rng(options.seed).permutation(len(sources))[:8]:
        right = "right" if translations[row] == references[row] else f"should be: {references[row]}"
        print(f"  {sources[row]} -> {translations[row]}   {right}")


def main(arguments: Sequence[str] | None = None, program: str = "train_translator.py") -> int:
    """The command line: 0 if all went well, 2 for bad input."""
    return run_example(program, PRESETS, train, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
