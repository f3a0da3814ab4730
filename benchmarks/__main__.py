"""`python -m benchmarks`: speed, side by side."""

import json as json_text
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from benchmarks import attention, flex, ladder, sentences
from benchmarks.chart import save_chart
from benchmarks.comparison import Comparison, geometric_mean
from jax_attn.cli.files import require_writable, write_texts
from jax_attn.cli.main import guarded
from jax_attn.cli.terminal import progress_over, terminal

Sizes = Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="B T N H")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every benchmark takes."""

    rounds: int = 7
    """How often each contender is timed."""
    json: File = None
    """Write every single time to this file."""
    plot: File = None
    """Draw a chart into this file: PNG, SVG or PDF."""


@dataclass(frozen=True, kw_only=True)
class Attention(Common):
    """Scaled dot-product attention beside torch's fused kernel and jax.nn, forward and forward+backward."""

    shape: Sizes = None
    """Batch, tokens, heads and width of a head, in place of the usual cases."""
    causal: bool = True
    """Whether a query sees only the keys up to its own position."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of queries, keys and values."""

    def comparisons(self) -> tuple[int, tuple[str, ...], Iterator[Comparison]]:
        """How many there will be, whose times they hold, and the comparisons themselves."""
        cases = attention.CASES
        if self.shape is not None:
            shape = _shape(self.shape)
            cases = tuple(attention.Case(shape, backward) for backward in (False, True))
        options = {"causal": self.causal, "dtype": self.dtype, "rounds": self.rounds}
        return len(cases), attention.NAMES, attention.bench_attention(cases, **options)


@dataclass(frozen=True, kw_only=True)
class Flex(Common):
    """FlexAttention with several masks beside torch's compiled one, forward: it has no other on a CPU."""

    shape: Sizes = flex.SHAPE
    """Batch, tokens, heads and width of a head."""
    torch: bool = True
    """Let torch's FlexAttention, compiled, take part; it needs a C++ compiler."""

    def comparisons(self) -> tuple[int, tuple[str, ...], Iterator[Comparison]]:
        """How many there will be, whose times they hold, and the comparisons themselves."""
        shape = _shape(self.shape or flex.SHAPE)
        return 4, flex.NAMES, flex.bench_flex(shape, compile_torch=self.torch, rounds=self.rounds)


@dataclass(frozen=True, kw_only=True)
class Ladder(Common):
    """The multi-head implementations, each under jit beside its eager twin in torch."""

    shape: Sizes = ladder.SHAPE
    """Batch, tokens, heads and width of a head."""
    variants: tuple[Literal[ladder.VARIANTS], ...] = ladder.VARIANTS  # ty: ignore[invalid-type-form]
    """Which of them."""
    backward: bool = True
    """After the forward passes, time them with the gradients of the input and all weights."""

    def comparisons(self) -> tuple[int, tuple[str, ...], Iterator[Comparison]]:
        """How many there will be, whose times they hold, and the comparisons themselves."""
        if not self.variants:
            raise ValueError(f"variants must be some of {', '.join(ladder.VARIANTS)}; got none")
        passes = (False, True) if self.backward else (False,)
        shape = _shape(self.shape or ladder.SHAPE)
        found = ladder.bench_ladder(shape, variants=self.variants, passes=passes, rounds=self.rounds)
        return len(passes) * len(self.variants), ladder.NAMES, found


@dataclass(frozen=True, kw_only=True)
class Sentences(Common):
    """A pretrained encoder reads real sentences, beside its torch twin and transformers, in float32."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A BERT checkpoint with its tokenizer.json, in place of the sample encoder."""
    count: int = 256
    """How many sentences."""
    batch_size: int = 32
    """Sentences in a batch."""

    def comparisons(self) -> tuple[int, tuple[str, ...], Iterator[Comparison]]:
        """How many there will be, whose times they hold, and the comparisons themselves."""
        for option, value in {"count": self.count, "batch_size": self.batch_size}.items():
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        found = sentences.bench_sentences(self.checkpoint, self.count, self.batch_size, self.rounds)
        return 1, sentences.NAMES, iter([found])


@dataclass(frozen=True, kw_only=True)
class Everything(Common):
    """Attention, flex and ladder, one after the other, at their usual sizes."""


Benchmark = (
    Annotated[Attention, tyro.conf.subcommand("attention", prefix_name=False)]
    | Annotated[Flex, tyro.conf.subcommand("flex", prefix_name=False)]
    | Annotated[Ladder, tyro.conf.subcommand("ladder", prefix_name=False)]
    | Annotated[Sentences, tyro.conf.subcommand("sentences", prefix_name=False)]
    | Annotated[Everything, tyro.conf.subcommand("everything", prefix_name=False)]
)


def bench(what: tyro.conf.OmitArgPrefixes[Benchmark] = Everything()) -> int:
    """Measure speed: every contender in one interleaved run, on random numbers or real sentences.

    A line shows the median time of each contender, how many times as fast as it we are (the median of the
    rounds' own ratios), and the memory that XLA holds beside arguments and results.
    """
    if what.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {what.rounds}")
    require_writable(what.json)
    require_writable(what.plot, ".png", ".svg", ".pdf")
    name = type(what).__name__.lower()
    console = terminal()
    kinds = (Attention, Flex, Ladder)
    parts = [kind(rounds=what.rounds) for kind in kinds] if isinstance(what, Everything) else [what]
    comparisons = [done for part in parts for done in measure(console, *part.comparisons())]
    if what.json is not None:
        save(what.json, name, comparisons)
    if what.plot is not None:
        save_chart(comparisons, what.plot, f"{name}: median of {what.rounds} rounds, {device()}")
    return 0


def measure(
    console: Console, count: int, names: tuple[str, ...], comparisons: Iterator[Comparison]
) -> list[Comparison]:
    """Print each comparison as it is done, and the mean of the ratios at the end."""
    done: list[Comparison] = []
    console.print(line("", names), style="bold")
    with progress_over(console, count) as advance:
        for comparison in comparisons:
            done.append(comparison)
            console.print(line(comparison.case, [cell(comparison, name) for name in names]), markup=False)
            advance(comparison.case)
    left_out = {name: reason for comparison in done for name, reason in comparison.left_out.items()}
    for name, reason in left_out.items():
        console.print(f"{name} took no part: {reason}", markup=False)
    for name in names[1:]:
        ratios = [comparison.speed_against(name) for comparison in done if name in comparison.timings]
        if len(ratios) > 1:
            console.print(f"{geometric_mean(ratios):.2f} times as fast as {name} (geometric mean)")
    return done


def line(first: str, cells: Any) -> str:
    """A row of the table."""
    return "  ".join([first.ljust(42), *(cell.ljust(26) for cell in cells)]).rstrip()


def cell(comparison: Comparison, name: str) -> str:
    """What one contender needed: time, our speed against it, memory."""
    if name not in comparison.timings:
        return "-"
    timing = comparison.timings[name]
    parts = [f"{1e3 * timing.median:7.1f} ms"]
    parts.append("      " if timing is comparison.ours else f"{comparison.speed_against(name):5.2f}x")
    if name in comparison.temporaries:
        parts.append(f"{comparison.temporaries[name] / MEGABYTE:5.0f} MB")
    return " ".join(parts)


def device() -> str:
    """What JAX computes on."""
    return jax.devices()[0].device_kind


def save(path: Path, name: str, comparisons: list[Comparison]) -> None:
    """Everything that was measured, and on what, as JSON."""
    data = {
        "benchmark": name,
        "device": device(),
        "machine": platform.processor() or platform.machine(),
        "versions": {package: version(package) for package in ("jax", "flax", "torch")},
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }
    write_texts({path: json_text.dumps(data, indent=1) + "\n"})


def _shape(sizes: tuple[int, int, int, int]) -> attention.Shape:
    shape = attention.Shape(*sizes)
    if min(shape) < 1:
        raise ValueError(f"shape must be four positive sizes, B T N H, got {' '.join(map(str, sizes))}")
    return shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status is 2 for bad input."""
    return guarded("benchmarks", lambda: tyro.cli(bench, args=arguments, prog="python -m benchmarks"))


if __name__ == "__main__":
    sys.exit(main())
