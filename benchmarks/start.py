"""From nothing to the first vectors: a new process imports, loads a pretrained encoder and reads a batch."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from benchmarks.first_output import ENCODERS
from benchmarks.sentences import english_sentences, make_batches
from jax_attn.weights.sample import minilm_folder

NAMES = tuple(ENCODERS)


def bench_start(folder: Path | None = None, batch_size: int = 32, rounds: int = 7) -> Comparison:
    """Time whole processes; what XLA compiles is in a cache on disk, from a run that is not counted.

    Args:
        folder: an encoder's checkpoint with its `tokenizer.json`; None is the sample encoder.
        batch_size: sentences in the batch.
        rounds: how often each contender is timed.

    Raises:
        RuntimeError: a process failed; its last line says why.
    """
    folder = minilm_folder() if folder is None else folder
    ((ids, mask),) = make_batches(folder, english_sentences(batch_size), batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        batch = Path(scratch, "batch.npz")
        np.savez(batch, ids=ids, mask=mask)
        contenders = {name: _process(name, folder, batch) for name in NAMES}
        case = f"a new process reads {batch_size} sentences of {ids.shape[1]} tokens"
        return contest(case, contenders, rounds=rounds)


def _process(name: str, folder: Path, batch: Path) -> Contender:
    output = batch.with_name(f"{NAMES.index(name)}.npy")
    command = [sys.executable, "-m", "benchmarks.first_output", name, folder, batch, output]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(batch.parent),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run() -> None:
        ended = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{name}: {ended.stderr.strip().splitlines()[-1]}")

    return Contender(run, lambda _: [np.load(output)])
