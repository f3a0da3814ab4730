"""`jax-attn verify`: prove the catalogue, then a pretrained model on what it reads, sees or hears."""

import difflib
import json as json_text
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jax_attn.catalogue import CATALOGUE, Twin
from jax_attn.catalogue.pretrained import Against, Proof, prove_checkpoint
from jax_attn.cli.columns import Columns
from jax_attn.cli.files import require_writable, write_texts
from jax_attn.cli.proving import beside, processes_for, proofs
from jax_attn.cli.terminal import progress_over, tell_written, terminal
from jax_attn.parity.lanes import LANES
from jax_attn.parity.report import Report
from jax_attn.parity.text import count

PRETRAINED = "pretrained"
KERNELS = "kernels"

Lane = Literal["float64", "float32", "bfloat16", "dropout"]


def verify(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    lanes: tuple[Lane, ...] = LANES,
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    text: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SENTENCE"), tyro.conf.UseAppendAction] = (),
    ignore: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME"), tyro.conf.UseAppendAction] = (),
    against: tuple[Against, ...] = (),
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    power: bool = False,
    verbose: bool = False,
) -> int:
    """Prove that each Flax module computes what its torch twin computes.

    Every variant gets its twin's weights and is compared on inputs that stress it: outputs, and the
    gradients of every parameter and input. Then a pretrained model is run on both sides, by default an encoder of
    sentences: any checkpoint that `from_pretrained` loads.

        jax-attn verify                                  all of it, and the sample encoder
        jax-attn verify multi-head simple --lanes float64
        jax-attn verify --checkpoint my-bert --text "A sentence." --text "Another one."
        jax-attn verify pretrained --checkpoint my-llama --against transformers
        jax-attn verify kernels                          attention on the device that is here, timed
        jax-attn verify --power                          what the comparison can see

    In the float64 and dropout columns stands the largest error, max|a-b| / max(1, max|b|); in float32 and
    bfloat16 the noise ratio, our distance from the truth over torch's. `jax-attn list` names the variants.
    The exit status is 0 only if everything passed.

    Args:
        names: the variants to prove, and "pretrained" for the checkpoint; none means all of it. "kernels", alone,
            is each implementation of attention on this machine's device, beside the oracle.
        lanes: the lanes to run.
        checkpoint: folder with config.json and weights, in place of the sample encoder. A model of texts reads with
            its tokenizer.json, or random ids without one; one of images or sounds gets noise.
        text: a sentence to read in place of the sample ones; give it as often as there are sentences.
        ignore: an attribute of the checkpoint's config.json that changes nothing in what is computed, or a tensor
            to leave out; shell-like patterns, as often as needed.
        against: what to compare the checkpoint with: its torch "twin", "transformers", or both, as by default where
            that is installed. transformers alone is compared in all lanes.
        json: write everything that was measured to this file.
        power: inject known mutations into the catalogue instead, and show which lanes see each; the exit status
            is 0 only if each is caught. The names are then those of mutations, or of their families.
        verbose: of a variant that differs, list every tensor rather than the worst.
    """
    if power:
        if checkpoint is not None or text or ignore or against:
            raise ValueError(
                "--power injects mutations into the catalogue; it takes no --checkpoint, --text or --ignore"
            )
        from jax_attn.cli.power import verify_power

        return verify_power(names, lanes, json)
    if KERNELS in names:
        if names != (KERNELS,) or checkpoint is not None or text or ignore:
            raise ValueError(
                f"{KERNELS!r} is proved alone: it takes no other name, --checkpoint, --text or --ignore"
            )
        from jax_attn.cli.verify_kernels import verify_kernels

        return verify_kernels(json)
    twins = chosen_twins(names)
    wants_pretrained = not names or PRETRAINED in names or checkpoint is not None or bool(text or against)
    require_writable(json)

    console = terminal()
    own = checkpoint is not None or bool(text or against)
    read = partial(prove_checkpoint, checkpoint, text or None, lanes, ignore=ignore, against=against)
    proof = None
    if wants_pretrained and own:  # before the catalogue: bad input is told now
        proof = show_proof(console, read(announce=console.print), verbose)
    with beside(read, at_once=wants_pretrained and not own and processes_for(len(twins)) > 1) as finished:
        reports = prove_catalogue(console, twins, lanes, verbose) if twins else []
        if wants_pretrained and not own:
            proof = show_proof(console, finished(), verbose)
    if json is not None:
        save(json, reports, proof)
        tell_written(console, [json])
    return 0 if all(item.passed for item in [*reports, proof] if item is not None) else 1


def chosen_twins(names: Sequence[str]) -> list[Twin]:
    """The rows with these names; all of them where none is given.

    Raises:
        ValueError: a name that the catalogue does not have; it lists the nearest ones.
    """
    known = [*CATALOGUE, PRETRAINED]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
            raise ValueError(f"no variant is called {name!r}{hint} (`jax-attn list` shows all)")
    return [CATALOGUE[name] for name in dict.fromkeys(names or CATALOGUE) if name != PRETRAINED]


def prove_catalogue(
    console: Console, twins: Sequence[Twin], lanes: Sequence[str], verbose: bool
) -> list[Report]:
    """Compare each twin, with a line for each as it is done, and what failed in full at the end."""
    started = time.perf_counter()
    columns = Columns(max(len(twin.name) for twin in twins), lanes)
    console.print(columns.header(), style="bold")
    reports = []
    with progress_over(console, len(twins)) as advance:
        for name, report in zip((twin.name for twin in twins), proofs(twins, lanes), strict=True):
            reports.append(report)
            console.print(columns.row(name, report))
            advance(name)
    failed = [report for report in reports if not report.passed]
    for report in failed:
        console.print(f"\n{report.text(verbose)}", markup=False)
    compared = sum(len(report.results) for report in reports)
    seconds = time.perf_counter() - started
    console.print(
        f"\n{len(reports) - len(failed)} of {len(reports)} variants equal their torch twins: "
        f"{count(compared, 'tensor')} compared in {seconds:.0f} s"
    )
    return reports


def show_proof(console: Console, proof: Proof, verbose: bool) -> Proof:
    """The model's row, and what either side makes of its input."""
    columns = Columns(max(len(proof.report.title), len("transformers")), proof.report.lanes)
    console.print(f"\n{proof.report.title} on {proof.read}", markup=False)
    console.print(columns.header(), style="bold")
    console.print(columns.row(proof.report.title, proof.report))
    if proof.transformers is not None:
        console.print(columns.row("transformers", proof.transformers))
    for report in (proof.report, proof.transformers):
        if report is not None and not report.passed:
            console.print(f"\n{report.text(verbose)}", markup=False)
    if (found := proof.agreement) is not None:
        console.print(
            f"\npredictions: KL divergence {found.divergence:.1e} nats, the first is the same in {found.top1:.1%}, "
            f"the first five in {found.top5:.1%}",
            markup=False,
        )
    if proof.similarities:
        console.print("\nsimilarity of the sentences: Flax, torch, difference", style="bold")
    for pair in proof.similarities:
        difference = abs(pair.flax - pair.torch)
        numbers = f"{pair.flax:8.4f} {pair.torch:8.4f} {difference:9.1e}"
        console.print(f"{numbers}  {pair.first} | {pair.second}", markup=False)
    return proof


def save(path: Path, reports: Sequence[Report], proof: Proof | None) -> None:
    """Everything that was measured, as JSON."""
    data: dict[str, Any] = {
        "passed": all(item.passed for item in [*reports, proof] if item is not None),
        "variants": [report.to_json() for report in reports],
        "pretrained": None if proof is None else proof.to_json(),
    }
    write_texts({path: json_text.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"})
