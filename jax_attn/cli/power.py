"""`jax-attn verify --power`: known mutations are injected into the catalogue, and each has to be found."""

import difflib
import json as json_text
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.power_pairs.decoder_pair import FlaxDecoderLayer, decoder_cases, torch_decoder_layer
from jax_attn.catalogue.power_pairs.edge_pair import FlaxEdges, edge_cases, torch_edges
from jax_attn.catalogue.power_pairs.image_pair import FlaxImageLayer, image_cases, torch_image_layer
from jax_attn.catalogue.power_pairs.loss_pair import FlaxLosses, loss_cases, torch_losses
from jax_attn.catalogue.power_pairs.norm_pair import FlaxNorms, norm_cases, torch_norms
from jax_attn.catalogue.power_pairs.tied_pair import FlaxTied, tied_cases, torch_tied
from jax_attn.cli.files import require_writable
from jax_attn.cli.proving import spread
from jax_attn.cli.terminal import progress_over, terminal
from jax_attn.cli.training_beds import TRAINING_BEDS, TrainingBed, try_training_bed
from jax_attn.parity.cases import EXACT, Case
from jax_attn.parity.lanes import LANES
from jax_attn.parity.mutations import MUTATIONS, Mutation
from jax_attn.parity.mutations.training import TRAINING_MUTATIONS, TrainingMutation
from jax_attn.parity.power import PowerReport, Trial, cell, number, power


@dataclass(frozen=True)
class Bed:
    """A row of the catalogue into which mutations are injected.

    Attributes:
        row: its name; those of `OWN` are pairs that are no row.
        mutations: names of the mutations.
        arguments: constructor arguments in place of the row's.
        cases: which of the row's calls are made; none is all.
        more: further calls.
    """

    row: str
    mutations: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    more: Callable[[], list[Case]] = list


def far_from_zero() -> list[Case]:
    """A mean at which a variance in one pass cancels, in float64 too."""
    return [Case("mean 1000", (1e3 + np.random.default_rng(0).standard_normal((3, 5, 91)),), lanes=EXACT)]


def large() -> list[Case]:
    """Numbers at which an activation that is cut off is cut off."""
    return [Case("large", (30 * np.random.default_rng(0).standard_normal((3, 5, 37)),), lanes=EXACT)]


# Flax, torch and the calls of pairs that are no row of the catalogue.
OWN: Mapping[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], list[Case]]]] = {
    "losses": (FlaxLosses, torch_losses, loss_cases),
    "decoder layer": (FlaxDecoderLayer, torch_decoder_layer, decoder_cases),
    "decoder layer 5e5": (lambda: FlaxDecoderLayer(5e5), lambda: torch_decoder_layer(5e5), decoder_cases),
    "image layer": (FlaxImageLayer, torch_image_layer, image_cases),
    "other norms": (FlaxNorms, torch_norms, norm_cases),
    "tied head": (FlaxTied, torch_tied, tied_cases),
    "edges": (FlaxEdges, torch_edges, edge_cases),
}

BEDS = [
    Bed(
        "encoder-layer-post",
        ("eps-1e-5", "eps-1e-6", "eps-outside", "variance-unbiased", "norm-uncentred", "norm-bias-missing",
         "norm-scale-plus-one", "norm-missing", "norm-placement", "skip-missing", "second-skip-missing",
         "gelu-form", "mask-inverted", "mask-causal", "dropout-later", "dropout-earlier"),
        cases=("plain", "tiny variance", "padding"),
    ),
    Bed(
        "encoder-layer-pre",
        ("eps-1e-12", "eps-missing", "variance-one-pass", "norm-placement", "skip-missing",
         "second-skip-missing", "skip-normed", "first-skip-normed"),
        arguments={"eps": 1e-5}, cases=("tiny variance",), more=far_from_zero,
    ),
    Bed(
        "attention-masked",
        ("scale-missing", "scale-twice", "scale-by-width", "swapped-qk", "swapped-kv", "heads-order",
         "heads-rolled", "heads-rolled-back", "values-order", "values-rolled", "values-rolled-back",
         "heads-interleaved", "heads-not-split", "heads-not-joined", "mask-inverted", "mask-inverted-mean",
         "mask-missing", "mask-adds-1e4", "mask-adds-1e9",
         "empty-row-mean", "softmax-axis", "softmax-plus-one", "weight-transposed",
         "weight-constant", "dropout-shared"),
    ),
    Bed(
        "sdpa", ("mask-one-more", "mask-not-itself", "mask-not-itself-mean", "mask-not-itself-itself",
                 "mask-inverted-itself", "mask-transposed", "mask-transposed-mean", "qkv-by-heads",
                 "qkv-in-three", "axes-swapped", "scale-missing", "heads-interleaved"),
        cases=("plain", "tiny variance"),
    ),
    Bed("torch-multihead-padding", ("qkv-by-heads", "mask-one-more", "softmax-axis", "weight-transposed")),
    Bed("feed-forward-gelu", ("gelu-form", "gelu-sigmoid", "relu-for-gelu", "relu6-for-gelu",
                              "silu-for-gelu", "none-for-gelu", "bias-missing", "input-constant",
                              "dropout-rate", "dropout-missing", "dropout-unscaled",
                              "dropout-in-evaluation", "matmul-tf32", "matmul-bfloat16",
                              "matmul-bfloat16-operands", "linear-bfloat16")),
    Bed("feed-forward-relu", ("gelu-for-relu", "tanh-gelu-for-relu", "silu-for-relu", "relu6-for-relu",
                              "squared-relu", "leaky-for-relu", "none-for-relu"), more=large),
    Bed("decoder layer", ("heads-shared", "heads-halved", "heads-doubled", "softmax-bfloat16",
                          "softmax-float16", "rotary-frequencies-reversed", "rotary-frequencies-mixed",
                          "rotary-exponent", "block-parallel", "flatten-first-last", "flatten-last-first",
                          "flatten-last-swapped", "padding-missing", "causal-missing", "padding-inverted",
                          "padding-inverted-mean", "padding-inverted-itself", "padding-inverted-alone",
                          "padding-inverted-alone-mean", "causal-inverted", "causal-inverted-mean",
                          "rotary-layout", "rotary-sign", "rotary-missing", "rotary-missing-keys",
                          "rotary-missing-queries", "rotary-base-500000",
                          "gelu-for-silu", "tanh-gelu-for-silu", "gelu-sigmoid-for-silu", "relu-for-silu",
                          "sigmoid-for-silu", "none-for-silu", "gate-swapped", "norm-centred", "eps-outside",
                          "eps-1e-5", "norm-placement")),
    Bed("decoder layer 5e5", ("rotary-base-10000",)),
    Bed("image layer", ("kernel-flipped", "padding-same", "leaky-slope", "relu-for-leaky", "eps-1e-5",
                        "eps-outside", "momentum-of-what-stays", "momentum-of-flax",
                        "running-variance-biased", "statistics-of-batch", "statistics-running")),
    Bed("other norms", ("eps-1e-5", "eps-1e-6", "eps-missing", "eps-outside", "variance-unbiased",
                        "norm-uncentred", "norm-centred", "norm-missing")),
    Bed("tied head", ("embedding-unscaled", "tie-lost", "empty-row-zero")),
    Bed("edges", ("clamp-gradient", "norm-gradient")),
    Bed("embeddings", ("position-off-by-one", "position-off-by-two", "position-one-back",
                       "position-two-back", "position-missing", "embedding-scaled", "embedding-padding",
                       "ids-off-by-one", "segments-ignored", "eps-1e-6")),
    Bed("embeddings-sinusoidal", ("position-halves", "position-off-by-one")),
    Bed("pooler", ("pooled-last", "pooled-mean", "pooler-tanh")),
    Bed("classification-head", ("pooled-last", "bias-missing", "dropout-rate")),
    Bed("encoder", ("layer-missing", "first-layer-missing", "weight-constant"), cases=("plain",)),
    Bed("losses", ("loss-reduction", "loss-ignore-index", "loss-mean-of-all", "loss-smoothing",
                   "loss-softmax", "loss-half")),
]  # fmt: skip


def verify_power(names: Sequence[str], lanes: Sequence[str], json: Path | None) -> int:
    """Inject each mutation, and tell which lanes see it; 0 if each is caught by the lane that has to."""
    beds = chosen_beds(names, lanes)
    require_writable(json)
    console = terminal()
    console.print(_line("mutation", "injected into", "error", lanes, "verdict"), style="bold")
    reports: list[PowerReport] = []
    with progress_over(console, len(beds)) as advance:
        for bed, report in zip(beds, spread(try_bed, beds, lanes), strict=True):
            reports.append(report)
            for trial in report.trials:
                console.print(row(trial, lanes))
            advance(bed.row)
    for report in reports:
        if not report.baseline.passed:
            console.print(f"\n{report.baseline}", markup=False)
    if json is not None:
        data = {"passed": _passed(reports), "pairs": [report.to_json() for report in reports]}
        json.write_text(json_text.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"\n{_summary(reports)}")
    return 0 if _passed(reports) else 1


ALL_MUTATIONS: dict[str, Mutation | TrainingMutation] = {**MUTATIONS, **TRAINING_MUTATIONS}


def chosen_beds(names: Sequence[str], lanes: Sequence[str]) -> list[Bed | TrainingBed]:
    """The rows, each with those of its mutations that are wanted and that these lanes can see.

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

    def wanted(name: str) -> bool:
        mutation = ALL_MUTATIONS[name]
        return mutation.lane in lanes and (not names or name in names or mutation.family in names)

    beds = [replace(bed, mutations=tuple(filter(wanted, bed.mutations))) for bed in [*BEDS, *TRAINING_BEDS]]
    beds = [bed for bed in beds if bed.mutations]
    if not beds:
        raise ValueError("these lanes see none of these mutations: dropout's show in the dropout lane alone")
    return beds


def try_bed(bed: Bed | TrainingBed, lanes: Sequence[str]) -> PowerReport:
    """Inject the mutations of one row."""
    if isinstance(bed, TrainingBed):
        return try_training_bed(bed)
    mutations = [MUTATIONS[name] for name in bed.mutations]
    if bed.row in OWN:
        flax, torch, calls = OWN[bed.row]
        return power(flax(), torch(), calls(), lanes, mutations, title=bed.row)
    twin = CATALOGUE[bed.row]
    twin = replace(twin, arguments={**twin.arguments, **bed.arguments})
    cases = [case for case in twin.cases() if not bed.cases or case.name in bed.cases]
    return power(
        twin.flax(), twin.torch(), [*cases, *bed.more()], lanes, mutations,
        whole_model=twin.whole_model, title=bed.row,
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
    pairs = max(len(bed.row) for bed in [*BEDS, *TRAINING_BEDS])
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
