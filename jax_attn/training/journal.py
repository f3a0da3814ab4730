"""What a run notes down of every step: a line of JSON each, and TensorBoard's events."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG, EVENTS = "log.jsonl", "tensorboard"


class Journal:
    """Writes `log.jsonl` and TensorBoard's events into a folder; without a folder, nothing.

    Args:
        folder: of the run.
        done: how many steps were taken before; what a killed run noted down after them is taken out.
    """

    def __init__(self, folder: Path | None, done: int = 0):
        self._log = self._events = None
        self.losses: dict[str, list[float]] = {}
        self._held_out: dict[str, list[tuple[int, float]]] = {}
        if folder is None:
            return
        from tensorboardX import SummaryWriter

        lines = _lines(folder / LOG, done)
        for line in lines:
            if "loss" in line:
                self.losses.setdefault(line["framework"], []).append(line["loss"])
            elif "loss" in line.get("held_out", ()):
                self._note(line["step"], line["framework"], line["held_out"]["loss"])
        beside = folder / (LOG + ".new")
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines))
        beside.replace(folder / LOG)
        self._log = (folder / LOG).open("a")
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=done + 1 if done else None)

    def step(self, step: int, framework: str, **numbers: float) -> None:
        """Note down numbers of a step, which are counted from 1."""
        self._write({"step": step, "framework": framework, **numbers})
        if self._events is not None:
            for name, number in numbers.items():
                self._events.add_scalar(f"{name}/{framework}", number, step)

    def evaluation(self, step: int, framework: str, figures: Mapping[str, float]) -> None:
        """Note down what held-out data gave after a step; once, where a run goes on after its last."""
        if step in (at for at, _ in self.held_out(framework)[-1:]):
            return
        self._write({"step": step, "framework": framework, "held_out": dict(figures)})
        if "loss" in figures:
            self._note(step, framework, figures["loss"])
        if self._events is not None:
            for name, number in figures.items():
                self._events.add_scalar(f"held_out_{name}/{framework}", number, step)

    def held_out(self, framework: str) -> list[tuple[int, float]]:
        """Step and held-out loss of each evaluation."""
        return self._held_out.get(framework, [])

    def flush(self) -> None:
        """Hand what was noted down to the disk."""
        if self._log is not None:
            self._log.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """End the writing."""
        if self._log is not None:
            self._log.close()
        if self._events is not None:
            self._events.close()

    def _note(self, step: int, framework: str, loss: float) -> None:
        self._held_out.setdefault(framework, []).append((step, loss))

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps(line) + "\n")


def _lines(path: Path, done: int) -> list[dict[str, Any]]:
    """The lines of the steps done; the last of a killed run may be cut off."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["step"] <= done:
            found.append(line)
    return found
