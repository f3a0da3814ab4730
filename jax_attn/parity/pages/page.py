"""A report as one page to read in a browser: nothing beside it, no script, in light and in dark."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from jax_attn.pages.document import document
from jax_attn.parity.pages.chart import depth_chart
from jax_attn.parity.pages.error_maps import ErrorMap
from jax_attn.parity.pages.style import STYLE
from jax_attn.parity.report import Report, not_compared
from jax_attn.parity.text import joined
from jax_attn.parity.tracing.differences import Difference
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.recording import TOP
from jax_attn.parity.tracing.traced import ModuleTrace, TracedCall
from jax_attn.parity.training.report import TrainingReport


def page(
    report: Report,
    *,
    maps: Sequence[ErrorMap] = (),
    training: TrainingReport | None = None,
    remarks: str = "",
) -> str:
    """The page: the verdict, where and why, and then what was measured.

    Args:
        report: what was found; its `trace`, where it has one, becomes the tree of modules, and its `diagnosis`
            the second thing to read.
        maps: where in the worst tensors the error lies.
        training: what was found of the trainings.
        remarks: what else is known of why.
    """
    where = joined(report.where, training.where() if training else "")
    why = joined(report.why, remarks, training.why if training else "")
    passed = report.passed and (training is None or training.passed)
    title = report.title or "parity"
    sections = [
        _verdict(report, passed, title),
        _section("Where they begin to differ", _pre(where)) if where else "",
        _section("Why", _pre(why)) if why else "",
        _lanes(report),
        _depth(report.trace, report.first_divergence),
        _tree(report.trace, report.first_divergence),
        _tensors(report, maps),
        _training(training),
        _left_out(report),
    ]
    heading = f"{'passed' if passed else 'FAILED'}: {title}"
    return document(heading, "\n".join(filter(None, sections)), style=STYLE)


def colour(difference: Difference | None) -> str:
    """The class of an error: "none" where there is no number, "ok" within the bound, else "e1" to "e5"."""
    if difference is None:
        return "none"
    if difference.agrees:
        return "ok"
    if not math.isfinite(difference.error) or difference.error >= 1 or difference.bound == 0:
        return "e5"
    beyond = math.log10(difference.error / difference.bound) / -math.log10(difference.bound)
    return f"e{1 + min(3, int(4 * beyond))}"


def _verdict(report: Report, passed: bool, title: str) -> str:
    failed = len(report.failures)
    compared = sum(result.kind != "run" for result in report.results)
    counts = [
        (f"{compared:,}", "tensors compared"),
        (f"{failed:,}", "failed"),
        (f"{len(report.left_out):,}", "left out"),
        (f"{report.parameters:,}", "parameters"),
        (f"{report.seconds:.1f} s", "taken"),
    ]
    boxes = "".join(f"<div><b>{number}</b> {word}</div>" for number, word in counts)
    word = "passed" if passed else "FAILED"
    remarks = [*([] if report.results else ["Nothing was compared."]), *report.remarks]
    told = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    return (
        f'<header class="{"pass" if passed else "fail"}"><h1>{escape(title)}</h1>'
        f'<p class="verdict">{word}</p><div class="counts">{boxes}</div>{told}</header>'
    )


def _lanes(report: Report) -> str:
    heads, *found = report.lane_rows()
    rows = [
        _cells(cells) + f'<td class="{"ok" if verdict == "passed" else "e5"}">{verdict}</td>'
        for *cells, verdict in found
    ]
    note = (
        "<p>In float64 and dropout stands the error, max|a-b| / max(1, max|b|); in float32 and bfloat16 "
        "the noise ratio, Flax's distance from the truth over torch's.</p>"
    )
    return _section("Lanes", _table(heads, rows) + note) if rows else ""


def _depth(trace: ModuleTrace | None, found: Divergence | None) -> str:
    if trace is None or not trace.calls:
        return ""
    marked = next((call for call in trace.calls if _is_first(call, found)), None)
    return _section("The error along the depth", depth_chart(trace, marked))


def _tree(trace: ModuleTrace | None, found: Divergence | None) -> str:
    if trace is None:
        return ""
    legend = "".join(
        f'<span class="{name}">{word}</span>'
        for name, word in (
            ("ok", "agrees"),
            ("e1", "differs, little"),
            ("e3", "more"),
            ("e5", "by 1 or more, NaN"),
            ("none", "not compared"),
        )
    )
    notes = [*trace.notes, *([str(trace.failure)] if trace.failure else [])]
    body = f'<p class="legend">{legend}</p>' + "".join(f"<p>{escape(note)}</p>" for note in notes)
    body += f'<div class="tree">{"".join(_branches(trace, TOP, found))}</div>'
    body += _list(
        [f"{path or 'the module'} of {side}: {why}" for side, path, why in trace.left_out], "Not paired"
    )
    direction = "forward and backward" if trace.backward else "forward"
    return _section(f"Modules, {direction}, in {trace.lane}", body)


def _branches(trace: ModuleTrace, parent: int, found: Divergence | None) -> Iterator[str]:
    for place, call in trace.children(parent):
        below = "".join(_branches(trace, place, found))
        line = _call(trace, call, found)
        if below:
            errors = [call.output, *(getattr(call, name) for name in BACKWARD)]
            is_open = parent == TOP or any(error is not None and not error.agrees for error in errors)
            yield f"<details{' open' if is_open else ''}><summary>{line}</summary>{below}</details>"
        else:
            yield f'<div class="leaf">{line}</div>'


BACKWARD = ("input_gradient", "parameter_gradient")


def _call(trace: ModuleTrace, call: TracedCall, found: Divergence | None) -> str:
    above = trace.calls[call.parent].path if call.parent != TOP else ""
    name = call.path.removeprefix(f"{above}." if above else "") or "the module"
    number = f" #{call.flax.number + 1}" if call.flax.number else ""
    chips = [("output", call.output), ("own", call.isolated)]
    chips += [("gradient", call.input_gradient), ("of weights", call.parameter_gradient)]
    text = f"<b>{escape(name + number)}</b> <i>{escape(call.flax.kind)}</i> "
    text += " ".join(_chip(word, error) for word, error in chips if error is not None or word == "output")
    if _is_first(call, found):
        text += ' <strong class="first">◀ first divergence</strong>'
    tip = f"{call.path} | {call.torch.path}" + (f"; {call.note}" if call.note else "")
    return f'<span title="{escape(tip)}">{text}</span>'


def _chip(word: str, error: Difference | None) -> str:
    number = "not compared" if error is None else f"{error.error:.1e}"
    tip = "" if error is None else escape(str(error))
    return f'<span class="chip {colour(error)}" title="{tip}">{word} {number}</span>'


def _is_first(call: TracedCall, found: Divergence | None) -> bool:
    return (
        found is not None
        and (call.flax.path, call.torch.path) == (found.flax_path, found.torch_path)
        and call.flax.number + 1 == found.call
    )


def _tensors(report: Report, maps: Sequence[ErrorMap]) -> str:
    """The tensors that differ, with their maps; where none does, those nearest to their bounds."""
    by_result = {each.result: each for each in maps}
    listed = [*by_result, *(result for result in report.failures if result not in by_result)][:20]
    heading = "The worst tensors"
    if not listed:
        heading = "The tensors nearest to their bounds"
        listed = sorted(report.results, key=lambda result: -result.severity)[:8]
    rows = []
    for result in listed:
        cells = [
            result.lane,
            result.case,
            result.kind,
            result.name,
            f"{result.judged:.3g}",
            f"{result.bound:.3g}",
        ]
        found = by_result.get(result)
        strips = "" if found is None else "".join(_strips(found))
        detail = escape(result.detail)
        rows.append(_cells(cells) + f"<td>{detail}{strips}</td>")
    more = len(report.failures) - len(listed)
    heads = ["lane", "case", "kind", "name", "error or ratio", "bound", "where"]
    note = f"<p>... and {more} more that differ.</p>" if more > 0 else ""
    if maps:
        note += "<p>Each strip runs along an axis of the tensor; the fullest colour is its largest error.</p>"
    return _section(heading, _table(heads, rows) + note) if rows else ""


def _strips(found: ErrorMap) -> Iterator[str]:
    """For each axis a row of cells, as dark as the largest error there."""
    largest = max((value for axis in found.axes for value in axis if math.isfinite(value)), default=0.0)
    for axis, cells in enumerate(found.axes):
        width = 6
        boxes = "".join(
            f'<rect x="{width * i}" width="{width}" height="10" class="heat" '
            f'style="opacity:{_darkness(value, largest):.2f}"><title>{value:.2e}</title></rect>'
            for i, value in enumerate(cells)
        )
        size = f'width="{width * len(cells)}" height="10"'
        yield (
            f'<div class="strip">axis {axis} ({found.shape[axis]}) <svg {size} role="img" '
            f'aria-label="error along axis {axis}">{boxes}</svg></div>'
        )


def _darkness(value: float, largest: float) -> float:
    if not math.isfinite(value):
        return 1.0
    return 0.04 + 0.96 * (value / largest) if largest else 0.04


def _training(training: TrainingReport | None) -> str:
    if training is None:
        return ""
    verdict = "passed" if training.passed else "FAILED"
    return _section(f"Training: {verdict}", _pre(joined(training.headline, training.tables())))


def _left_out(report: Report) -> str:
    rows = [_cells(entry) for entry in not_compared(report.left_out)]
    return _section("Not compared", _table(["lane", "what", "why"], rows)) if rows else ""


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(lines: Sequence[str], heading: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>{heading}: {len(lines)}</summary><ul>{items}</ul></details>" if lines else ""
