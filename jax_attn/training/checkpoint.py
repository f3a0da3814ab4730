"""Checkpoints of a run: all that it needs to go on as if it had never stopped, by Orbax."""

import gc
import logging
import re
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

STATE = "state"
UNFINISHED = re.compile(r"(\d+)\.orbax-checkpoint-tmp.*")
UNREADABLE, CUT_OFF = ".unreadable", ".cut-off"


class Checkpoints:
    """The checkpoints in a folder, one subfolder for each, called by how many steps were taken.

    A checkpoint is written beside the training, under a temporary name until it is complete: a process that is
    killed leaves those before as they were.

    Args:
        folder: is made with the first checkpoint.
        keep: how many of the newest are kept, beside the best.
        say: takes a line of text for the user.
    """

    def __init__(self, folder: Path, keep: int = 2, say: Callable[[str], Any] = print):
        self.folder, self._keep, self._say = folder.absolute(), keep, say
        self._opened: ocp.training.Checkpointer | None = None
        self._pending: tuple[int, Any] | None = None

    def steps(self) -> list[int]:
        """The steps of all checkpoints that are complete, the newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((int(path.name) for path in found if path.name.isdecimal()), reverse=True)

    def save(self, step: int, state: Any, score: float | None = None, notes: Mapping[str, Any] = {}) -> None:
        """Begin to write a checkpoint; the arrays may be donated as soon as this returns.

        Args:
            step: how many steps were taken, which is also the number of the next batch.
            state: a pytree of arrays.
            score: where the model was evaluated, the number that is highest for the best checkpoint.
            notes: what else is kept with it, as JSON.

        Raises:
            OSError: this checkpoint or the one before cannot be written.
        """
        self.wait()
        if step in self.steps():
            return
        metrics: Any = None if score is None else {"score": float(score)}
        response = self._guarded(
            step,
            lambda: self._checkpointer().save_async(
                step,
                state,
                checkpointable_name=STATE,
                force=True,
                metrics=metrics,
                custom_metadata=dict(notes),
            ),
        )
        self._pending = step, response

    def wait(self) -> None:
        """Return when what was begun is written; OSError where it cannot be."""
        if self._pending is not None:
            (step, response), self._pending = self._pending, None
            self._guarded(step, response.result)

    def close(self) -> None:
        """Wait, and end the threads that write."""
        try:
            self.wait()
        finally:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read: its step, its state and its notes; None where there is none yet.

        One that was cut off or cannot be read is named, renamed to be in nobody's way, and never deleted.

        Args:
            like: a state of the same structure, whose shapes, dtypes and shardings are wanted.

        Raises:
            ValueError: there are checkpoints, but none can be read; or they are of another model.
        """
        self._skip_cut_off()
        abstract = jax.tree.map(_abstract, like)
        unreadable: dict[int, str] = {}
        for step in self.steps():
            read = self._read(self.folder / str(step), abstract)
            if isinstance(read, str):
                self._say(f"warning: checkpoint {self.folder / str(step)} cannot be read: {read}")
                unreadable[step] = read
                continue
            for each in unreadable:
                kept = self._put_aside(self.folder / str(each), f"{each}{UNREADABLE}")
                self._say(f"warning: it is kept as {kept}, and the one before is used")
            if unreadable:
                agreed(True)  # nobody goes on before it is done
            return step, *read
        if unreadable:
            raise ValueError(
                f"none of the checkpoints in {self.folder} can be read: "
                f"{', '.join(map(str, sorted(unreadable)))}; they are left as they are"
            )
        return None

    def _read(self, path: Path, abstract: Any) -> tuple[Any, dict[str, Any]] | str:
        """State and notes; or why it cannot be read."""
        found: Any = None
        different, problem = [], ""
        with _quiet():
            try:
                metadata: Any = ocp.metadata(str(path), STATE)
                if metadata.metadata is None:
                    raise OSError("its arrays cannot be listed: a file of it is damaged or cut off")
                different = differences(abstract, metadata.metadata)
                if not different:
                    notes = dict(metadata.custom_metadata or {})
                    found = ocp.load(str(path), abstract, checkpointable_name=STATE), notes
            except Exception as error:  # Orbax, TensorStore and JSON each have errors of their own
                problem = _root(error)
                del error
                gc.collect()  # tasks that failed beside it report themselves when they are collected
        if different:
            raise ValueError(
                f"the checkpoint {path} is of another model or optimizer: {'; '.join(different[:3])}"
                + (f" and {len(different) - 3} more" if len(different) > 3 else "")
            )
        if not agreed(found is not None):
            return problem or "another process cannot read it"
        return found

    def _skip_cut_off(self) -> None:
        """Put aside what a process was writing when it was killed."""
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if cut_off := UNFINISHED.fullmatch(path.name):
                kept = self._put_aside(path, f"{cut_off[1]}{CUT_OFF}")
                self._say(
                    f"warning: checkpoint {cut_off[1]} was cut off while it was saved, and is skipped; "
                    f"it is kept as {kept}"
                )
        agreed(True)  # nobody goes on before it is done

    def _put_aside(self, path: Path, name: str) -> str:
        """Rename what is of no use, since its number will be that of a new checkpoint; return its new name."""
        to, count = path.with_name(name), 1
        while to.exists():
            count += 1
            to = path.with_name(f"{name}-{count}")
        if jax.process_index() == 0:
            path.rename(to)
        return to.name

    def _checkpointer(self) -> ocp.training.Checkpointer:
        if self._opened is None:
            self._opened = ocp.training.Checkpointer(
                str(self.folder), preservation_policy=_NewestAndBest(self._keep)
            )
        return self._opened

    def _guarded(self, step: int, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except Exception as error:
            good = [each for each in self.steps() if each != step]
            raise OSError(
                f"checkpoint {step} cannot be saved in {self.folder}: {_root(error)}; "
                + (f"the last good one is {good[0]}" if good else "there is none before it")
            ) from error


class _NewestAndBest:
    """Which checkpoints Orbax keeps."""

    def __init__(self, newest: int):
        self._newest = newest

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each, in order of steps, whether it stays."""
        scores = [(each.metrics or {}).get("score", -np.inf) for each in checkpoints]
        best = int(np.argmax(scores)) if scores and max(scores) > -np.inf else None
        return [k == best or k >= len(checkpoints) - self._newest for k in range(len(checkpoints))]


def require_room(folder: Path, state: Any, checkpoints: int) -> None:
    """Raise OSError unless as many checkpoints of a state as will be there at once have room on the disk."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < size * checkpoints:
        raise OSError(
            f"{checkpoints} checkpoints of {readable(size)} need {readable(size * checkpoints)} in {folder}, and "
            f"{readable(free)} are free: make room, or keep fewer (--keep)"
        )


def readable(size: float) -> str:
    """A number of bytes, in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def agreed(ok: bool) -> bool:
    """Whether it is so in all processes."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def differences(abstract: Any, saved: Any) -> list[str]:
    """What a saved state has in another shape or dtype, lacks, or has besides; a line for each."""
    ours = {_path(path): _described(leaf) for path, leaf in jax.tree.leaves_with_path(abstract)}
    theirs = {
        _path(path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(saved, is_leaf=lambda x: hasattr(x, "dtype"))
    }
    lines = []
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            is_now, was = (_written(each.get(name)) for each in (ours, theirs))
            lines.append(f"{name} is {is_now} now, and {was} there")
    return lines


@contextmanager
def _quiet() -> Generator[None]:
    """Without what Orbax logs about a checkpoint that it cannot read: the caller says it in a line.

    The first read that fails closes the event loop under those that are still under way, and their threads have
    nobody to tell so but Python's hook for what nobody catches.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    hook = sys.unraisablehook

    def but_closed_loops(found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
            hook(found)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = but_closed_loops
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _path(path: Any) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _described(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of what lies on disk; a key is saved as its numbers."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape), str(leaf.dtype)


def _written(found: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if found is None else f"{found[1]}{list(found[0])}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _root(error: BaseException) -> str:
    """The first line of what was at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
