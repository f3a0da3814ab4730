"""The folder of a run: what it was started with, and the refusal to write over another."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_attn.training.options import TrainingOptions
from jax_attn.training.task import Batch

CONFIG, CHECKPOINTS = "run.json", "checkpoints"


def require_startable(options: TrainingOptions) -> None:
    """Raise an error unless the options may start, or go on with, a run in `options.out`; nothing is kept there.

    Raises:
        ValueError: the folder has a run that is not to be resumed, or that was started with other options.
        OSError: the folder cannot be written.
    """
    if options.out is None:
        return
    record = options.out / CONFIG
    if not record.exists():
        _require_writable(options.out)
        return
    if not options.resume:
        raise ValueError(
            f"{options.out} holds a run already: --resume goes on with it, another --out starts anew"
        )
    was = recorded_options(options.out)
    now, free = as_json(options), options.may_change | set(options.allow_changes)
    different = [
        f"{name} is {json.dumps(now.get(name))}, and was {json.dumps(was.get(name))}"
        for name in sorted(now.keys() | was.keys())
        if name not in free and now.get(name) != was.get(name)
    ]
    if different:
        raise ValueError(f"the run in {options.out} was started with other options: {'; '.join(different)}")
    _require_writable(options.out)


def recorded_options(out: Path) -> dict[str, Any]:
    """The options of the run in a folder, as JSON has them; none where there is no run."""
    record = out / CONFIG
    if not record.exists():
        return {}
    try:
        return dict(json.loads(record.read_text())["options"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{record} is not the record of a run, or is damaged") from None


def require_same_data(options: TrainingOptions, first: Batch) -> None:
    """Raise ValueError if a run is to go on with other data: its first batch was another one than `first`."""
    record = None if options.out is None else options.out / CONFIG
    if record is None or not options.resume or not record.exists() or "data" in options.allow_changes:
        return
    was = json.loads(record.read_text()).get("first_batch")
    if was is not None and was != digest(first):
        raise ValueError(
            f"the run in {options.out} was started with other data: its first batch differs. "
            "A run that goes on with them on purpose takes --allow-changes data"
        )


def digest(batch: Batch) -> str:
    """What tells a batch from any other."""
    found = hashlib.sha256()
    for name, rows in sorted(batch.items()):
        rows = np.ascontiguousarray(rows)
        found.update(f"{name} {rows.dtype} {rows.shape}".encode() + rows.tobytes())
    return found.hexdigest()


def start_run(options: TrainingOptions, files: Mapping[str, str | Path], first: Batch) -> None:
    """Write the record of the options and of the first batch, and the files that go with the run."""
    if options.out is None or jax.process_index():
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content.encode()
        (options.out / name).write_bytes(data)
    record = {
        "options": as_json(options),
        "first_batch": digest(first),
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        "devices": [str(device.device_kind) for device in jax.devices()[:1]] + [jax.device_count()],
        "command": sys.argv,
    }
    # Replaced in one go: a run that is killed here keeps the record that it had.
    beside = options.out / (CONFIG + ".new")
    beside.write_text(json.dumps(record, indent=2) + "\n")
    beside.replace(options.out / CONFIG)


def as_json(options: TrainingOptions) -> dict[str, Any]:
    """The options as they come back from JSON."""
    return json.loads(json.dumps(asdict(options), default=str))


def _require_writable(folder: Path) -> None:
    there = folder
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from None
