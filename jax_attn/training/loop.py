"""The loop: from a task, batches and options to a trained model."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

from jax_attn.training.data.batches import iterate
from jax_attn.training.journal import Journal
from jax_attn.training.making import make_trainers, precision
from jax_attn.training.options import TrainingOptions
from jax_attn.training.progress import Pace, Progress, told
from jax_attn.training.run_folder import CHECKPOINTS, require_same_data, require_startable, start_run
from jax_attn.training.stopping import StopSignals
from jax_attn.training.task import Batch, Task

AHEAD = 2  # steps whose losses are not asked for yet, so that the device has work meanwhile


class Batches(Protocol):
    """The global batch of each step, by its number: always the same one, wherever and whenever it is asked for."""

    def __getitem__(self, step: int, /) -> Batch:
        """Batch number `step`, from 0 on and without end."""
        ...


class HeldOut(Protocol):
    """Batches of which there is an end."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Batch: ...


class Result(NamedTuple):
    """What came of a training.

    Attributes:
        trainers: by framework.
        losses: by framework, the loss of each step.
        figures: by framework, the loss and the metrics of the last evaluation on held-out batches.
    """

    trainers: dict[str, Any]
    losses: dict[str, list[float]]
    figures: dict[str, dict[str, float]]


def fit(
    task: Task, batches: Batches, options: TrainingOptions, held_out: HeldOut | Sequence[Batch] = ()
) -> Result:
    """Train.

    With `options.out`, the folder of the run gets `run.json` (options and versions), `log.jsonl` (loss and norm of
    the gradient of each step), TensorBoard's events, `losses.png`, checkpoints, and at the end what `task.save`
    writes into `model`. SIGTERM and Ctrl-C save and end the process with status 0; `options.resume` goes on, with
    the losses that there would have been without a stop.

    Args:
        task: the model and its losses.
        batches: the batch of each step, by its number.
        options: all the rest.
        held_out: batches that are not trained on, for evaluations.

    Raises:
        ValueError: the run cannot start or go on so: what must be changed.
        OSError: the folder cannot be written, or has no room.
        FloatingPointError: a loss or a gradient is not finite. The last good checkpoint is kept.
    """
    if options.coordinator is not None:
        options.join_processes()
    require_startable(options)
    with precision(options), ExitStack() as stack:
        return _Training(task, batches, options, held_out, stack).run()


def evaluate(trainer: Any, held_out: HeldOut | Sequence[Batch]) -> dict[str, float]:
    """The figures of all held-out batches together."""
    found = [trainer.figures(held_out[number]) for number in range(len(held_out))]
    sums = {
        name: [sum(float(each[name][k]) for each in found) for k in (0, 1)]
        for name in (found[0] if found else ())
    }
    return {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}


def peak_flops(dtype: str) -> float | None:
    """What all devices can do together at most, by the vendor's figures; None of a CPU or where no one says."""
    if jax.default_backend() == "cpu":
        return None
    from jax_attn.training.sizing.chips import chip_of

    chip = chip_of()
    return None if chip is None else chip.peak(dtype) * jax.device_count()


class _Training:
    """One call of `fit`; `stack` closes what it opens."""

    def __init__(
        self,
        task: Task,
        batches: Batches,
        options: TrainingOptions,
        held_out: HeldOut | Sequence[Batch],
        stack: ExitStack,
    ):
        self.task, self.batches, self.options, self.held_out = task, batches, options, held_out
        first = jax.process_index() == 0
        known = {} if options.out is None else batches[0]
        require_same_data(options, known)
        self.trainers = make_trainers(task, options)
        stack.callback(self._give_back)
        self.done, self.best, self.evaluated = 0, -math.inf, -1
        self.checkpoints: Any = None
        said: list[str] = []
        if options.out is not None and options.framework == "jax":
            from jax_attn.training.checkpoint import Checkpoints  # Orbax takes seconds to import

            self.checkpoints = Checkpoints(options.out / CHECKPOINTS, options.keep, said.append)
            self._restore()
            stack.callback(self.checkpoints.close)
        start_run(options, task.files, known)
        self.peak = peak_flops(options.dtype) if "jax" in self.trainers else None
        self.progress = Progress(options.steps, self.done, not first, self.peak)
        stack.callback(self.progress.close)
        for line in said:
            self.progress.say(line)
        self.journal = Journal(options.out if first else None, self.done)
        stack.callback(self.journal.close)
        self.losses = {name: self.journal.losses.get(name, []) for name in self.trainers}
        self.figures: dict[str, dict[str, float]] = {}
        self.pace, self.pending, self.compiled = Pace(), deque(), False
        self.stop = stack.enter_context(StopSignals(options.log_every)) if self.checkpoints else None
        self.profile = _Profile(options, self.done)
        stack.callback(self.profile.close)

    def run(self) -> Result:
        """Train to the end."""
        options = self.options
        if self.done:
            self.progress.say(f"going on after step {self.done} of {options.steps}")
        for batch in self._batches():
            self.profile.before(self.done)
            reports = {name: trainer.step(batch) for name, trainer in self.trainers.items()}
            self.done += 1
            tokens = self.task.count_tokens(batch)
            self.pace.add(tokens, self.trainers["jax"].flops(batch) if self.peak else 0)
            self.pending.append((self.done, reports, tokens))
            self.profile.after(self.done, reports)
            if not self.compiled:
                self._settle()
                self.pace, self.compiled = Pace(), True
            elif self.done % options.log_every == 0 or self.done == options.steps:
                self._settle(0 if self.done == options.steps else AHEAD)
            self._evaluate_and_save()
            if self.stop is not None and self.stop.asked(self.done):
                self._stop()
        return self._finish()

    def _batches(self) -> Iterator[Batch]:
        """What is left of the batches, made ahead in threads."""
        if self.done >= self.options.steps:
            return iter(())
        return iterate(self.batches, self.done, self.options.steps, ahead=2)

    def _settle(self, ahead: int = 0) -> None:
        """Fetch the losses of all steps but the last few, look at them, and note them down."""
        due = [self.pending.popleft() for _ in range(len(self.pending) - ahead)]
        fetched = jax.device_get(
            [{name: tuple(report) for name, report in reports.items()} for _, reports, _ in due]
        )
        new: dict[str, list[float]] = {name: [] for name in self.trainers}
        for (step, _, tokens), reports in zip(due, fetched, strict=True):
            for name, report in reports.items():
                loss, norm = map(float, report)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise FloatingPointError(self._not_finite(step, name, loss, norm))
                self.journal.step(step, name, loss=loss, grad_norm=norm, tokens=tokens)
                self.losses[name].append(loss)
                new[name].append(loss)
        if due:
            if self.compiled:
                self.pace.measure()
            self.progress.steps(due[-1][0], new, self.pace)

    def _not_finite(self, step: int, framework: str, loss: float, norm: float) -> str:
        what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm}"
        options = self.options
        remedies = [f"a lower --learning-rate than {options.learning_rate:g}"]
        if options.max_grad_norm is None:
            remedies.append("--max-grad-norm 1")
        if options.warmup < 0.1:
            remedies.append("a longer --warmup")
        if options.dtype == "bfloat16":
            remedies.append("--dtype float32")
        good = []
        if self.checkpoints:
            self.checkpoints.wait()
            good = self.checkpoints.steps()
        kept = f"; the last good checkpoint is {self.checkpoints.folder / str(good[0])}" if good else ""
        side = f" of {framework}" if len(self.trainers) > 1 else ""
        return f"step {step}: the {what}{side}. Try {', '.join(remedies)}; or look at the data of that step{kept}"

    def _evaluate_and_save(self) -> None:
        """What is due after this step."""
        options, last = self.options, self.done == self.options.steps
        better = False
        if len(self.held_out) and (last or self.done % options.steps_between_evaluations == 0):
            better = self._evaluate()
        if self.checkpoints and (better or last or self.done % options.steps_between_checkpoints == 0):
            self._save()

    def _evaluate(self) -> bool:
        """Evaluate; return whether it is the best so far."""
        self._settle()
        self.figures = {name: evaluate(trainer, self.held_out) for name, trainer in self.trainers.items()}
        self.evaluated = self.done
        for name, figures in self.figures.items():
            self.journal.evaluation(self.done, name, figures)
            side = f" {name}" if len(self.figures) > 1 else ""
            self.progress.say(f"held out after step {self.done}{side}: {told(figures)}")
        self._write()
        score = self._score()
        better = score is not None and score > self.best
        if better:
            self.best = score
        self.pace.go()
        return better

    def _write(self) -> None:
        """Print what the model writes."""
        if self.task.write is None or "jax" not in self.trainers:
            return
        model = self.trainers["jax"].gathered()
        if jax.process_index() == 0:
            self.progress.say(self.task.write(model))

    def _score(self) -> float | None:
        """That of this step, if it was evaluated."""
        if self.evaluated != self.done or "jax" not in self.figures:
            return None
        score = float(self.task.score(self.figures["jax"]))
        return score if math.isfinite(score) else None

    def _save(self) -> None:
        self._settle()  # a state after a loss that is not finite is never saved
        self.journal.flush()
        notes = {"best": self.best if math.isfinite(self.best) else None, "next_batch": self.done}
        self.checkpoints.save(self.done, self.trainers["jax"].state, self._score(), notes)
        self.pace.go()

    def _restore(self) -> None:
        """Go on from the newest checkpoint, where that is asked for and there is one."""
        from jax_attn.training.checkpoint import require_room

        trainer, options = self.trainers["jax"], self.options
        assert options.out is not None
        if options.resume and (found := self.checkpoints.restore(trainer.state)):
            self.done, trainer.state, notes = found
            if self.done > options.steps:
                raise ValueError(
                    f"--steps is {options.steps}, and the run in {options.out} has taken {self.done} already"
                )
            self.best = -math.inf if notes.get("best") is None else notes["best"]
        there = len(self.checkpoints.steps())
        require_room(options.out, trainer.state, max(1, options.keep + 2 - there))

    def _stop(self) -> None:
        """Save, and end the process."""
        assert self.stop is not None
        self._save()
        self.checkpoints.wait()
        why = self.stop.received or "a stop of another process"
        self.progress.say(
            f"{why}: saved after step {self.done} of {self.options.steps}; "
            "the same command with --resume goes on from there"
        )
        raise SystemExit(0)

    def _finish(self) -> Result:
        if len(self.held_out) and self.evaluated != self.done:
            self._evaluate()
        if self.checkpoints:
            self.checkpoints.wait()
        out = self.options.out
        if out is not None:
            from jax_attn.training.curves import save_curves

            self._save_model()
            if jax.process_index() == 0:
                held_out = {name: self.journal.held_out(name) for name in self.trainers}
                save_curves(out / "losses.png", self.losses, held_out)
                self.progress.say(f"wrote {out}")
        return Result(self.trainers, self.losses, self.figures)

    def _save_model(self) -> None:
        if self.task.save is None or "jax" not in self.trainers:
            return
        assert self.options.out is not None
        model = self.trainers["jax"].gathered()
        if jax.process_index() == 0:
            self.task.save(model, self.options.out / "model")

    def _give_back(self) -> None:
        """Give the module of the task, whose arrays were given away, those that were trained."""
        if isinstance(self.task.model, nnx.Module) and "jax" in self.trainers:
            nnx.update(self.task.model, nnx.state(self.trainers["jax"].model))


class _Profile:
    """Records steps for TensorBoard's profiler, once the step is compiled and warm."""

    WARM_UP = 3

    def __init__(self, options: TrainingOptions, done: int):
        self._folder = None if options.out is None else str(options.out / "profile")
        self._start = done + min(self.WARM_UP, max(0, options.steps - done - options.profile))
        self._stop = self._start + options.profile
        self._running = False

    def before(self, step: int) -> None:
        """Begin, if it is time: `step` steps were taken."""
        if step == self._start < self._stop:
            jax.profiler.start_trace(self._folder)  # ty: ignore
            self._running = True

    def after(self, step: int, reports: Any) -> None:
        """End, if it is time, once the device is done with what was asked of it."""
        if self._running and step == self._stop:
            jax.block_until_ready(
                [report.loss for report in reports.values() if isinstance(report.loss, jax.Array)]
            )
            self.close()

    def close(self) -> None:
        """End what is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
