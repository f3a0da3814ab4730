"""The error of every module's output in the order of the calls, as SVG."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from jax_attn.parity.tracing.differences import Difference
from jax_attn.parity.tracing.recording import TOP as RUN
from jax_attn.parity.tracing.traced import ModuleTrace, TracedCall

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 260, 64, 26, 22
LOW, HIGH = -18, 2  # powers of ten; what is smaller or larger stands at the rim
MOST_DOTS = 200


def depth_chart(trace: ModuleTrace, marked: TracedCall | None) -> str:
    """Errors of the outputs and each module's own; where gradients were traced, theirs as well.

    Args:
        trace: the calls; they are drawn in the order in which they end.
        marked: the call at which they begin to differ; the mark stands where it is seen first, which is at a
            submodule if what is wrong is given to one.
    """
    calls = list(_in_order_of_end(trace, RUN))
    fields = {"output": "error of the output", "isolated": "the module's own"}
    if trace.backward:
        fields = {
            "output": "error of the output",
            "input_gradient": "gradient",
            "isolated_gradient": "its own",
        }
    series = [[getattr(call, name) for call in calls] for name in fields]
    labels = [_label(call) for call in calls]
    place = None if marked is None else _first_risen(calls, marked)
    parts = [*_grid(), *_bound(series), *_mark(place, len(labels))]
    for number, (errors, word) in enumerate(zip(series, fields.values(), strict=True)):
        parts += _series(errors, labels, number, word)
    first, last = (escape(_short(labels[i])) for i in (0, -1))
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text>')
    if len(labels) > 1:
        parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>')
    return (
        f'<div class="wide"><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="errors along the depth, logarithmic">{"".join(parts)}</svg></div>'
    )


def _first_risen(calls: Sequence[TracedCall], marked: TracedCall) -> int | None:
    """The place of the first output that differs; that of `marked` if only gradients do."""
    risen = (place for place, call in enumerate(calls) if call.output is not None and not call.output.agrees)
    return next(risen, next((place for place, call in enumerate(calls) if call is marked), None))


def _label(call: TracedCall) -> str:
    return f"{call.path or 'the module'}{f' #{call.flax.number + 1}' if call.flax.number else ''}"


def _in_order_of_end(trace: ModuleTrace, parent: int) -> Iterator[TracedCall]:
    """A module after its submodules: its error is that of all of them."""
    for place, call in trace.children(parent):
        yield from _in_order_of_end(trace, place)
        yield call


def _grid() -> Iterator[str]:
    for power in range(LOW, HIGH + 1, 4):
        y = _y(10.0**power)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power:+03d}</text>'


def _bound(series: Sequence[Sequence[Difference | None]]) -> Iterator[str]:
    bound = max((error.bound for errors in series for error in errors if error is not None), default=0.0)
    if bound:
        y = _y(bound)
        yield f'<line class="bound" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{WIDTH - 8}" y="{y - 4:.1f}" text-anchor="end">bound {bound:.0e}</text>'


def _mark(marked: int | None, count: int) -> Iterator[str]:
    if marked is not None:
        x = _x(marked, count)
        yield f'<line class="here" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        anchor = "end" if x > WIDTH - 160 else "start"
        yield f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="{anchor}">first divergence</text>'


def _series(
    errors: Sequence[Difference | None], labels: Sequence[str], number: int, word: str
) -> Iterator[str]:
    points = [
        (_x(place, len(errors)), _y(error.error), error, labels[place])
        for place, error in enumerate(errors)
        if error is not None
    ]
    if not points:
        return
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    yield f'<polyline class="s{number}" points="{line}"/>'
    if len(points) <= MOST_DOTS:
        for x, y, error, label in points:
            tip = escape(f"{label}: {error.error:.2e}")
            yield f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{tip}</title></circle>'
    x, dot = LEFT + 8 + 220 * number, f'<tspan class="s{number}">●</tspan>'
    yield f'<text x="{x}" y="{TOP - 4}">{dot} {word}</text>'


def _x(place: int, count: int) -> float:
    return LEFT + 12 + (WIDTH - LEFT - 24) * (place / (count - 1) if count > 1 else 0.5)


def _y(error: float) -> float:
    """NaN and infinity at the upper rim, 0 at the lower."""
    power = HIGH if not math.isfinite(error) else math.log10(error) if error > 0 else LOW
    share = (min(max(power, LOW), HIGH) - LOW) / (HIGH - LOW)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _short(label: str, most: int = 40) -> str:
    return label if len(label) <= most else f"…{label[1 - most :]}"
