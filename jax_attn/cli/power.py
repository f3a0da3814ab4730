"""`jax-attn verify --power`: known mutations are injected into the catalogue, and each has to be found."""

import difflib
import json as json_text
from collections.abc import Sequence
from pathlib import Path

from jax_attn.catalogue.fixtures import FIXTURES
from jax_attn.cli.files import require_writable
from jax_attn.cli.proving import spread
from jax_attn.cli.terminal import progress_over, terminal
from jax_attn.cli.training_fixtures import TRAINING_FIXTURES, try_training_fixture
from jax_attn.parity.lanes import LANES
from jax_attn.parity.mutations import MUTATIONS, Mutation
from jax_attn.parity.mutations.training import TRAINING_MUTATIONS
from jax_attn.parity.power import power
from jax_attn.parity.power_report import PowerReport, Trial, cell, number

ALL_MUTATIONS: dict[str, Mutation] = {**MUTATIONS, **TRAINING_MUTATIONS}
ALL_FIXTURES = (*FIXTURES, *TRAINING_FIXTURES)

Work = tuple[str, tuple[str, ...]]
"""The name of a fixture, and those of mutations: they go to another process."""


def verify_power(names: Sequence[str], lanes: Sequence[str], json: Path | None) -> int:
    """Inject each mutation, and tell which lanes see it; 0 if each is caught by the lane that has to."""
    work = chosen(names, lanes)
    require_writable(json)
    console = terminal()
    console.print(_line("mutation", "injected into", "error", lanes, "verdict"), style="bold")
    reports: list[PowerReport] = []
    with progress_over(console, len(work)) as advance:
        for report in spread(try_fixture, work, lanes):
            reports.append(report)
            for trial in report.trials:
                console.print(row(trial, lanes))
            advance(report.title)
    for report in reports:
        if not report.baseline.passed:
            console.print(f"\n{report.baseline}", markup=False)
    if json is not None:
        data = {"passed": _passed(reports), "pairs": [report.to_json() for report in reports]}
        json.write_text(json_text.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"\n{_summary(reports)}")
    return 0 if _passed(reports) else 1


def chosen(names: Sequence[str], lanes: Sequence[str]) -> list[Work]:
    """The fixtures, each with those of its mutations that are wanted and that these lanes can see.

    Raises:
        ValueError: a name that is neither a mutation's nor a family's, or float64 is not among the lanes.
    """
    if "float64" not in lanes:
        raise ValueError("--power needs the float64 lane: the others cannot see every mutation")
    families = {mutation.family for mutation in ALL_MUTATIONS.values()}
    for name in names:
        if name not in ALL_MUTATIONS and name not in families:
            nearest = difflib.get_close_matches(name, [*ALL_MUTATIONS, *families], n=3, cutoff=0.4)
            hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
            raise ValueError(
                f"no mutation is called {name!r}{hint}; the families are {', '.join(sorted(families))}"
            )

    def wanted(fixture: str, mutation: Mutation) -> bool:
        asked = not names or mutation.name in names or mutation.family in names
        return asked and mutation.lane in lanes and fixture in mutation.on

    work = [
        (fixture, tuple(name for name, mutation in ALL_MUTATIONS.items() if wanted(fixture, mutation)))
        for fixture in ALL_FIXTURES
    ]
    work = [(fixture, mutations) for fixture, mutations in work if mutations]
    if not work:
        raise ValueError("these lanes see none of these mutations: dropout's show in the dropout lane alone")
    return work


def try_fixture(work: Work, lanes: Sequence[str]) -> PowerReport:
    """Inject mutations into one fixture."""
    name, mutations = work
    if name in TRAINING_FIXTURES:
        return try_training_fixture(name, mutations)
    fixture = FIXTURES[name]
    return power(
        fixture.flax(), fixture.torch(), fixture.cases(), lanes, map(MUTATIONS.__getitem__, mutations),
        whole_model=fixture.whole_model, title=name,
    )  # fmt: skip


def row(trial: Trial, lanes: Sequence[str]) -> str:
    """The line of one mutation, with rich's markup."""
    colour = "green" if trial.caught else "bold red"
    cells = [cell(trial, lane) for lane in lanes]
    verdict = (
        "caught" if trial.caught else "MISSED" if trial.verdict == "MISSED" else f"MISSED, {trial.verdict}"
    )
    return _line(trial.mutation, trial.pair, number(trial.error), cells, f"[{colour}]{verdict}[/{colour}]")


def _line(mutation: str, pair: str, error: str, lanes: Sequence[str], verdict: str) -> str:
    names = max(map(len, ALL_MUTATIONS))
    pairs = max(map(len, ALL_FIXTURES))
    cells = [text.rjust(max(map(len, LANES))) for text in lanes]
    return "  ".join([mutation.ljust(names), pair.ljust(pairs), error.rjust(8), *cells, verdict])


def _passed(reports: Sequence[PowerReport]) -> bool:
    return all(report.baseline.passed and len(report.caught) == len(report.trials) for report in reports)


def _summary(reports: Sequence[PowerReport]) -> str:
    trials = [trial for report in reports for trial in report.trials]
    caught = sum(trial.caught for trial in trials)
    seconds = sum(report.seconds for report in reports)
    blind = [
        f"{lane} does not see {count} of them"
        for lane in ("float32", "bfloat16")
        if (count := sum(lane in trial.lanes and not trial.lanes[lane].caught for trial in trials))
    ]
    passed = sum(report.baseline.passed for report in reports)
    tested = len({trial.mutation for trial in trials})
    return (
        f"{caught} of {len(trials)} injections of {tested} mutations caught, in {seconds:.0f} s; "
        f"{passed} of {len(reports)} pairs pass without a mutation" + "".join(f"\n{line}" for line in blind)
    )
