"""`python -m benchmarks`: speed, side by side."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from benchmarks import attention, cached, decoder, flex, ladder, sentences, start, training, whisper
from benchmarks.cases import CASES, LENGTHS, Case, Shape
from benchmarks.chart import save_chart
from benchmarks.comparison import Comparison
from benchmarks.record import as_json, device, record
from benchmarks.scale_chart import save_scale_chart
from benchmarks.table import measure
from jax_attn.cli.files import require_writable, write_texts
from jax_attn.cli.main import guarded
from jax_attn.cli.terminal import terminal

Sizes = Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="B T N H")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
DType = Literal["float32", "bfloat16", "float16"]


class Work(NamedTuple):
    """How many comparisons there will be, whose times they hold, and the comparisons themselves."""

    count: int
    names: tuple[str, ...]
    comparisons: Iterator[Comparison]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every benchmark takes."""

    rounds: int = 7
    """How often each contender is timed."""
    json: File = None
    """Write every single time to this file, with machine, versions and date."""
    plot: File = None
    """Draw a chart into this file: PNG, SVG or PDF."""


@dataclass(frozen=True, kw_only=True)
class Attention(Common):
    """Scaled dot-product attention beside torch's fused kernel and jax.nn, forward and forward+backward."""

    shape: Sizes = None
    """Batch, tokens, heads and width of a head, in place of the usual cases."""
    causal: bool = True
    """Whether a query sees only the keys up to its own position."""
    dtype: DType = "float32"
    """Of queries, keys and values."""

    def work(self) -> Work:
        """What is measured."""
        cases = CASES["attention"]
        if self.shape is not None:
            cases = tuple(Case(_shape(self.shape), backward) for backward in (False, True))
        mask = "causal" if self.causal else "full"
        return _calls([replace(case, mask=mask, dtype=self.dtype) for case in cases], self.rounds)


@dataclass(frozen=True, kw_only=True)
class Scale(Common):
    """Causal attention from 512 to 32,768 tokens: how time and memory grow; --plot draws lines.

    A contender whose program would need more memory than is free is left out, with what it would need.
    """

    rounds: int = 3
    """How often each contender is timed."""
    tokens: tuple[int, ...] = LENGTHS
    """Which lengths."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    """Of queries, keys and values."""
    backward: bool = True
    """After the forward passes, time them with their gradients."""

    def work(self) -> Work:
        """What is measured."""
        if not self.tokens or min(self.tokens) < 1:
            raise ValueError(
                f"tokens must be lengths from 1 on, got {' '.join(map(str, self.tokens)) or 'none'}"
            )
        rows = (CASES["scale"][0], *([replace(CASES["scale"][0], backward=True)] if self.backward else ()))
        cases = [
            replace(row, dtype=dtype, shape=row.shape._replace(tokens=tokens))
            for dtype in self.dtypes
            for row in rows
            for tokens in self.tokens
        ]
        return _calls(cases, self.rounds)


@dataclass(frozen=True, kw_only=True)
class Decode(Common):
    """One query after 4,096 keys, in batches, as when a model writes."""

    def work(self) -> Work:
        """What is measured."""
        return _calls(CASES["decode"], self.rounds)


@dataclass(frozen=True, kw_only=True)
class Cached(Common):
    """One more token through a whole attention with its cache, early and late in it, beside its torch twin's."""

    shape: Sizes = None
    """Batch, tokens that the cache has room for, heads and width of a head, in place of one text and of eight."""
    places: tuple[int, ...] = cached.PLACES
    """How many tokens are in the cache."""

    def work(self) -> Work:
        """What is measured."""
        shapes = cached.SHAPES if self.shape is None else (_shape(self.shape),)
        room = shapes[0].tokens
        if not self.places or not 0 < min(self.places) <= max(self.places) < room:
            raise ValueError(
                f"places must be between 1 and {room - 1}, got {' '.join(map(str, self.places)) or 'none'}"
            )
        found = cached.bench_cached(shapes, places=self.places, rounds=self.rounds)
        return Work(len(shapes) * len(self.places), cached.NAMES, found)


@dataclass(frozen=True, kw_only=True)
class Short(Common):
    """64 sequences of 128 tokens, with and without padding, as an encoder is trained and served with."""

    def work(self) -> Work:
        """What is measured."""
        return _calls(CASES["short"], self.rounds)


@dataclass(frozen=True, kw_only=True)
class Flex(Common):
    """FlexAttention with several masks beside torch's compiled one, forward: it has no other on a CPU."""

    shape: Sizes = flex.SHAPE
    """Batch, tokens, heads and width of a head."""
    torch: bool = True
    """Let torch's FlexAttention, compiled, take part; it needs a C++ compiler."""

    def work(self) -> Work:
        """What is measured."""
        shape = _shape(self.shape or flex.SHAPE)
        return Work(4, flex.NAMES, flex.bench_flex(shape, compile_torch=self.torch, rounds=self.rounds))


@dataclass(frozen=True, kw_only=True)
class Ladder(Common):
    """The multi-head implementations, each under jit beside its eager twin in torch."""

    shape: Sizes = ladder.SHAPE
    """Batch, tokens, heads and width of a head."""
    variants: tuple[Literal[ladder.VARIANTS], ...] = ladder.VARIANTS  # ty: ignore[invalid-type-form]
    """Which of them."""
    backward: bool = True
    """After the forward passes, time them with the gradients of the input and all weights."""

    def work(self) -> Work:
        """What is measured."""
        if not self.variants:
            raise ValueError(f"variants must be some of {', '.join(ladder.VARIANTS)}; got none")
        passes = (False, True) if self.backward else (False,)
        shape = _shape(self.shape or ladder.SHAPE)
        found = ladder.bench_ladder(shape, variants=self.variants, passes=passes, rounds=self.rounds)
        return Work(len(passes) * len(self.variants), ladder.NAMES, found)


@dataclass(frozen=True, kw_only=True)
class Sentences(Common):
    """A pretrained encoder reads real sentences, beside its torch twin and transformers, in float32."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A BERT checkpoint with its tokenizer.json, in place of the sample encoder."""
    count: int = 256
    """How many sentences."""
    batch_size: int = 32
    """Sentences in a batch."""

    def work(self) -> Work:
        """What is measured."""
        for option, value in {"count": self.count, "batch_size": self.batch_size}.items():
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        found = sentences.bench_sentences(self.checkpoint, self.count, self.batch_size, self.rounds)
        return Work(1, sentences.NAMES, iter([found]))


@dataclass(frozen=True, kw_only=True)
class Start(Common):
    """From a new process to the first vectors of a pretrained encoder, beside transformers."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """An encoder's checkpoint with its tokenizer.json, in place of the sample encoder."""
    batch_size: int = 32
    """Sentences in the batch."""

    def work(self) -> Work:
        """What is measured."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        found = start.bench_start(self.checkpoint, self.batch_size, self.rounds)
        return Work(1, start.NAMES, iter([found]))


@dataclass(frozen=True, kw_only=True)
class Decoder(Common):
    """A language model, SmolLM2 where it is installed, reads a prompt and writes a text, beside transformers."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A decoder's folder or GGUF file, in place of SmolLM2."""
    prompt: int = decoder.PROMPT
    """Tokens of the prompt that is read."""
    new: int = decoder.NEW
    """Tokens that are written."""

    def work(self) -> Work:
        """What is measured."""
        for option, value in {"prompt": self.prompt, "new": self.new}.items():
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        found = decoder.bench_decoder(self.checkpoint, self.prompt, self.new, self.rounds)
        return Work(2, decoder.NAMES, found)


@dataclass(frozen=True, kw_only=True)
class Whisper(Common):
    """The encoder of a Whisper, tiny.en where it is installed, reads sound, beside transformers', in float32."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A Whisper's folder, in place of tiny.en."""
    batch: int = 1
    """How many sounds, of half a minute, are read at once."""

    def work(self) -> Work:
        """What is measured."""
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        found = whisper.bench_whisper(self.checkpoint, self.batch, self.rounds)
        return Work(1, whisper.NAMES, iter([found]))


@dataclass(frozen=True, kw_only=True)
class Training(Common):
    """A training step of each example at its small preset, beside that of its torch twin, in float32."""

    examples: tuple[Literal[training.EXAMPLES], ...] = training.EXAMPLES  # ty: ignore[invalid-type-form]
    """Which of them."""
    dropout: bool = True
    """As the presets have it; without it, the losses are compared too."""

    def work(self) -> Work:
        """What is measured."""
        if not self.examples:
            raise ValueError(f"examples must be some of {', '.join(training.EXAMPLES)}; got none")
        found = training.bench_training(self.examples, dropout=self.dropout, rounds=self.rounds)
        return Work(len(self.examples), training.NAMES, found)


@dataclass(frozen=True, kw_only=True)
class Everything(Common):
    """Attention, decode, cached, short, flex and ladder, one after the other, at their usual sizes."""


Benchmark = (
    Annotated[Attention, tyro.conf.subcommand("attention", prefix_name=False)]
    | Annotated[Scale, tyro.conf.subcommand("scale", prefix_name=False)]
    | Annotated[Decode, tyro.conf.subcommand("decode", prefix_name=False)]
    | Annotated[Cached, tyro.conf.subcommand("cached", prefix_name=False)]
    | Annotated[Short, tyro.conf.subcommand("short", prefix_name=False)]
    | Annotated[Flex, tyro.conf.subcommand("flex", prefix_name=False)]
    | Annotated[Ladder, tyro.conf.subcommand("ladder", prefix_name=False)]
    | Annotated[Sentences, tyro.conf.subcommand("sentences", prefix_name=False)]
    | Annotated[Start, tyro.conf.subcommand("start", prefix_name=False)]
    | Annotated[Decoder, tyro.conf.subcommand("decoder", prefix_name=False)]
    | Annotated[Whisper, tyro.conf.subcommand("whisper", prefix_name=False)]
    | Annotated[Training, tyro.conf.subcommand("training", prefix_name=False)]
    | Annotated[Everything, tyro.conf.subcommand("everything", prefix_name=False)]
)


def bench(what: tyro.conf.OmitArgPrefixes[Benchmark] = Everything()) -> int:
    """Measure speed: every contender in one interleaved run, on random numbers or real sentences.

    First all contenders have to compute the same. Then each is timed once a round. A line shows the median time
    of each, how many times as fast as it we are (the median of the rounds' own ratios; below 1 it is faster), and
    the memory that XLA holds beside arguments and results. "products alone" are the matrix products without the
    rest: the ratio to them says how far from the floor we are.

    For example: `python -m benchmarks scale --tokens 512 4096 --dtypes float32 --plot scale.png --json scale.json`.
    """
    if what.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {what.rounds}")
    require_writable(what.json)
    require_writable(what.plot, ".png", ".svg", ".pdf")
    name = type(what).__name__.lower()
    console = terminal()
    kinds = (Attention, Decode, Cached, Short, Flex, Ladder)
    parts = [kind(rounds=what.rounds) for kind in kinds] if isinstance(what, Everything) else [what]
    comparisons = [
        replace(done, facts={"benchmark": type(part).__name__.lower(), **done.facts})
        for part in parts
        for done in measure(console, *part.work())
    ]
    if what.json is not None:
        write_texts({what.json: as_json(record(name, what.rounds, comparisons))})
    if what.plot is not None:
        draw = save_scale_chart if isinstance(what, Scale) else save_chart
        draw(comparisons, what.plot, f"{name}: median of {what.rounds} rounds, {device()}")
    return 0


def _calls(cases: Sequence[Case], rounds: int) -> Work:
    return Work(len(cases), attention.NAMES, attention.bench_attention(cases, rounds=rounds))


def _shape(sizes: tuple[int, int, int, int]) -> Shape:
    shape = Shape(*sizes)
    if min(shape) < 1:
        raise ValueError(f"shape must be four positive sizes, B T N H, got {' '.join(map(str, sizes))}")
    return shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status is 2 for bad input."""
    return guarded("benchmarks", lambda: tyro.cli(bench, args=arguments, prog="python -m benchmarks"))


if __name__ == "__main__":
    sys.exit(main())
