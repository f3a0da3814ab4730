"""A report as one line of a table that grows while the work goes on."""

from collections.abc import Sequence

from jax_attn.parity.report import Report

WIDTH = 10


class Columns:
    """Lines of equal layout: name, parameters, a number for each lane, time and verdict.

    Args:
        name_width: room for the names.
        lanes: the lanes to show; float64 takes two columns, output and gradient.
    """

    def __init__(self, name_width: int, lanes: Sequence[str]):
        self.name_width = max(name_width, len("variant"))
        self.lanes = [lane for lane in lanes if lane != "float64"]
        self.float64 = "float64" in lanes

    def header(self) -> str:
        """The names of the columns."""
        titles = ["parameters", *(["float64", "gradient"] if self.float64 else []), *self.lanes, "seconds"]
        return self._line("variant", titles, "verdict")

    def row(self, name: str, report: Report) -> str:
        """The line of one report, with rich's markup."""
        numbers = [f"{report.parameters:,}"]
        if self.float64:
            numbers += [worst(report, "float64", "output"), worst(report, "float64", "gradient")]
        numbers += [worst(report, lane) for lane in self.lanes]
        return self._line(name, [*numbers, f"{report.seconds:.1f}"], verdict(report.passed))

    def _line(self, name: str, cells: Sequence[str], last: str) -> str:
        return "  ".join([name.ljust(self.name_width), *(cell.rjust(WIDTH) for cell in cells), last])


def worst(report: Report, lane: str, kind: str | None = None) -> str:
    """The number nearest to its bound: an error, or a noise ratio. "-" where nothing was compared."""
    result = report.worst(lane, kind)
    if result is None:
        return "-"
    return f"{result.error:.1e}" if result.ratio is None else f"{result.ratio:.2f}"


def verdict(passed: bool) -> str:
    """In colour where there is colour."""
    return "[green]passed[/green]" if passed else "[bold red]FAILED[/bold red]"
