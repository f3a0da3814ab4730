"""`jax-attn bench`: speed, side by side."""

import json as json_text
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jax_attn.bench.sentences import FLAX, bench_sentences


def bench(
    what: tyro.conf.Positional[Literal["sentences"]],
    /,
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    count: int = 256,
    batch_size: int = 32,
    rounds: int = 7,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> int:
    """Measure speed: every contender in one interleaved run, medians and ratios.

    `sentences` embeds real sentences with a pretrained encoder: Flax under jit, its torch twin, and
    transformers where it is installed, all on the same padded batches in float32.

    Args:
        what: what to measure.
        checkpoint: a BERT checkpoint with its tokenizer.json, in place of the sample encoder.
        count: how many sentences.
        batch_size: sentences in a batch.
        rounds: how often each contender is timed.
        json: write every single time to this file.
    """
    timings = bench_sentences(checkpoint, count, batch_size, rounds)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{count} sentences, batches of {batch_size}, median of {rounds} rounds", style="bold")
    for name, timing in timings.items():
        speed = timings[FLAX].speed_against(timing)
        relation = "" if name == FLAX else f"  Flax is {speed:.2f} times as fast"
        console.print(f"{name:14} {timing.median:7.3f} s  {count / timing.median:7.0f} sentences/s{relation}")
    if json is not None:
        seconds = {name: timing.seconds for name, timing in timings.items()}
        json.write_text(json_text.dumps({"what": what, "count": count, "seconds": seconds}, indent=1) + "\n")
    return 0
