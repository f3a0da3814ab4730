"""What a training says: one line that moves on a terminal, and lines one after another in a pipe."""

import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np


class Pace:
    """How fast it goes, without what lies between a measurement and the next call of `go`.

    Attributes:
        seconds_per_step: None before the first measurement.
        tokens_per_second: the same.
        flops_per_second: the same; 0 where they are not counted.
    """

    def __init__(self) -> None:
        self.seconds_per_step = self.tokens_per_second = self.flops_per_second = None
        self.go()

    def go(self) -> None:
        """Begin to measure."""
        self._since, self._steps, self._tokens, self._flops = time.perf_counter(), 0, 0, 0

    def add(self, tokens: int, flops: int = 0) -> None:
        """A step was taken."""
        self._steps, self._tokens, self._flops = self._steps + 1, self._tokens + tokens, self._flops + flops

    def measure(self) -> None:
        """Take the time of the steps since the last measurement; those before count half, a quarter, and so on."""
        if self._steps:
            seconds = time.perf_counter() - self._since
            self.seconds_per_step = _smoothed(self.seconds_per_step, seconds / self._steps)
            self.tokens_per_second = _smoothed(self.tokens_per_second, self._tokens / seconds)
            self.flops_per_second = _smoothed(self.flops_per_second, self._flops / seconds)
            self.go()


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else (before + now) / 2


class Progress:
    """The lines of a training of so many steps.

    Args:
        total: how many steps there are.
        done: how many were taken before.
        silent: whether another process does the talking.
        peak: FLOP/s of all devices together, at most; None where that is not known.
    """

    def __init__(self, total: int, done: int = 0, silent: bool = False, peak: float | None = None):
        self._total, self._silent, self._peak, self._bar = total, silent, peak, None
        self._every = max(1, total // 20)
        self._next = done + 1
        self._since: dict[str, list[float]] = {}
        if not silent and sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(BarColumn(bar_width=16), TextColumn("{task.description}"), transient=True)
            self._task = self._bar.add_task("compiling the first step", total=total, completed=done)
            self._bar.start()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def steps(self, step: int, losses: Mapping[str, Sequence[float]], pace: Pace) -> None:
        """Tell how it goes: up to `step`, the losses since the last call, how fast."""
        for name, each in losses.items():
            self._since.setdefault(name, []).extend(each)
        if not any(self._since.values()):
            return
        line = self._line(step, pace)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
        if self._bar is None and (step >= self._next or step == self._total):
            self.say(line)
        if step >= self._next:
            self._next = step - step % self._every + self._every
            self._since = {}

    def close(self) -> None:
        """Take the moving line away."""
        if self._bar is not None:
            self._bar.stop()

    def _line(self, step: int, pace: Pace) -> str:
        losses = list(self._since.values())
        parts = [f"step {step:>{len(str(self._total))}}/{self._total}"]
        parts += [
            f"{name + ' ' if len(losses) > 1 else ''}loss {np.mean(each):.4f}"
            for name, each in self._since.items()
        ]
        if len(losses) > 1:
            parts.append(f"at most {np.ptp(np.array(losses), axis=0).max():.1e} apart")
        if pace.tokens_per_second is not None:
            parts.append(f"{pace.tokens_per_second:,.0f} tokens/s")
        if self._peak and pace.flops_per_second:
            parts.append(f"MFU {pace.flops_per_second / self._peak:.1%}")
        if pace.seconds_per_step is not None and step < self._total:
            parts.append(f"{duration(pace.seconds_per_step * (self._total - step))} left")
        return "  ".join(parts)


def told(figures: Mapping[str, float]) -> str:
    """The figures of an evaluation, in words."""
    return ", ".join(f"{name} {number:.4f}" for name, number in figures.items())


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
