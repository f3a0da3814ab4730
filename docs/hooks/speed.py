"""The page of speed: figures and bars from the JSON of a benchmark, and nothing typed by hand."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[1] / "speed.json"
MEGABYTE = 2**20
HEAD = """# Speed

For those who ask how fast it is: every figure and bar below is of one interleaved run of
`python -m benchmarks {benchmark} --json docs/speed.json`, in which all contenders first had to compute the same.

{machine}

Each time is the median, with the fastest and the slowest round behind it. "times as fast" says how many times as
fast as this contender we are, the median of the rounds' own ratios; below 1 it is faster. "memory" is what XLA
holds beside arguments and results. "products alone" are the matrix products without the rest.
"""


def page(path: Path = RECORD) -> str:
    """The Markdown of a benchmark's JSON."""
    record = json.loads(path.read_text(encoding="utf-8"))
    parts = [HEAD.format(benchmark=record["benchmark"], machine="\n".join(_machine(record)))]
    for kind, rows in groupby(record["comparisons"], key=lambda row: row["benchmark"]):
        parts.append(f"## {kind.capitalize()}\n")
        parts.extend(_table(row) for row in rows)
    return "\n".join(parts)


def _machine(record: Mapping[str, Any]) -> Iterator[str]:
    machine, versions = record["machine"], record["versions"]
    yield f"- date: {record['date'][:10]}"
    yield f"- device: {machine['devices']} × {machine['device']}, {machine['platform']}"
    yield f"- processor: {machine['processor']}, {machine['cores']} cores"
    if machine["load"] is not None:
        yield f"- load average at the end: {machine['load']:.1f}"
    yield f"- rounds: {record['rounds']}"
    yield f"- versions: {', '.join(f'{name} {number}' for name, number in versions.items() if number)}"


def _table(row: Mapping[str, Any]) -> str:
    """One case: a line and a bar a contender; ours is the first."""
    slowest = max(row["median"].values())
    lines = "".join(_line(row, name, slowest) for name in row["seconds"])
    left_out = "".join(
        f"<p>{escape(name)} took no part: {escape(why)}</p>" for name, why in row["left_out"].items()
    )
    return (
        f'<table class="speed"><caption>{escape(row["case"])}</caption>\n<thead><tr><th scope="col">contender</th>'
        '<th scope="col">time</th><th scope="col">times as fast</th><th scope="col">memory</th></tr></thead>\n'
        f"<tbody>\n{lines}</tbody></table>\n{left_out}\n"
    )


def _line(row: Mapping[str, Any], name: str, slowest: float) -> str:
    median, rounds, ours = row["median"][name], row["seconds"][name], next(iter(row["seconds"])) == name
    ratio = "" if ours else f"{row['ours_is_times_as_fast'][name]:.2f}"
    memory = row["temporary_bytes"].get(name)
    bar = f'<span class="bar{" ours" if ours else ""}" style="width: {100 * median / slowest:.1f}%"></span>'
    spread = (
        f" <small>{_duration(min(rounds))} to {_duration(max(rounds))}</small>" if len(rounds) > 1 else ""
    )
    return (
        f'<tr><th scope="row">{escape(name)}</th><td>{_duration(median)}{spread}{bar}</td><td>{ratio}</td>'
        f"<td>{'' if memory is None else f'{memory / MEGABYTE:.0f} MB'}</td></tr>\n"
    )


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"
