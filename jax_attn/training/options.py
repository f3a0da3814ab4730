"""The options that all examples have."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jax_attn.training.distributed import initialize


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What can be set; the comments are the text of `--help`."""

    out: Path | None = None  # folder of the run: checkpoints, log, curves, and at the end the model
    resume: bool = False  # go on with the run that is in --out
    allow_changes: tuple[str, ...] = ()  # options, by name, or data, in which a resumed run may differ
    mesh: str | None = None  # how devices share the work: "data=2,fsdp=4"; all of them as data by default
    coordinator: str | None = None  # host:port of process 0, where several make one training; else detected
    num_processes: int | None = None  # how many there are
    process_id: int | None = None  # which of them this is, from 0
    framework: Literal["jax", "torch", "both"] = "jax"  # both: same weights, same batches, and no dropout
    steps: int = 600  # optimizer steps
    batch_size: int = 64  # rows of a step, over all devices
    accumulate: int = 1  # parts that a batch is computed in, one after another
    learning_rate: float = 1e-3  # the highest, at the end of the warm-up
    schedule: Literal["linear", "cosine", "inverse-sqrt", "wsd", "constant"] = (
        "linear"  # how it falls after that
    )
    warmup: float = 0.1  # share of the steps in which the learning rate climbs
    weight_decay: float = 0.01  # of AdamW, on what is not a bias or a norm
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    max_grad_norm: float | None = 1.0  # longer gradients are scaled down to this; None leaves them
    ema: float | None = None  # decay of a running mean of the weights, which is then evaluated and saved
    dtype: Literal["float32", "bfloat16", "float64"] = (
        "float32"  # to compute in; bfloat16 keeps float32 weights
    )
    seed: int = 0  # of the split, the weights, the order of the data and dropout
    log_every: int = 10  # steps between two looks at the loss, for which the device is not kept waiting
    eval_every: int | None = None  # steps between two evaluations on held-out data; a tenth of all by default
    save_every: int | None = None  # steps between two checkpoints; a tenth of all, at most 500
    keep: int = 2  # newest checkpoints that are kept, beside the best
    profile: int = 0  # steps that are recorded for TensorBoard's profiler, once the step is compiled

    # What a resumed run may set otherwise than the run that it goes on with.
    may_change: ClassVar[frozenset[str]] = frozenset(
        {
            "out",
            "resume",
            "allow_changes",
            "mesh",
            "coordinator",
            "num_processes",
            "process_id",
            "steps",
            "log_every",
            "eval_every",
            "save_every",
            "keep",
            "profile",
        }
    )

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        self.require("steps", 1, 10**9)
        self.require("batch_size", 1, 10**7)
        self.require("accumulate", 1, self.batch_size)
        self.require("learning_rate", 0.0, 1e3)
        self.require("warmup", 0.0, 1.0)
        self.require("weight_decay", 0.0, 1e3)
        self.require("max_grad_norm", 1e-9, 1e9)
        self.require("ema", 0.0, 1.0)
        self.require("seed", 0, 2**31 - 1)
        for name in ("log_every", "eval_every", "save_every", "keep"):
            self.require(name, 1, 10**9)
        self.require("profile", 0, 10**6)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"--accumulate must divide --batch-size, got {self.accumulate} parts of {self.batch_size} rows"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"--betas must be from 0 to below 1, got {self.betas[0]} and {self.betas[1]}")
        if self.out is None and (self.resume or self.profile):
            raise ValueError(f"--{'resume' if self.resume else 'profile'} needs --out: the folder of the run")
        if self.resume and self.framework != "jax":
            raise ValueError(
                f"--resume goes on with checkpoints, and --framework {self.framework} keeps none"
            )

    def join_processes(self) -> None:
        """Join the other processes of the training, if there are any; before anything else of JAX.

        Where JAX is in use already and no flag names others, the process stays as it is.

        Raises:
            ValueError: the flags do not go together.
            TimeoutError: the coordinator does not answer.
        """
        try:
            initialize(self.coordinator, self.num_processes, self.process_id)
        except RuntimeError as error:
            if self.coordinator is not None or "must be called before" not in str(error):
                raise

    @property
    def steps_between_evaluations(self) -> int:
        """`eval_every`, or what stands in for it."""
        return self.eval_every or max(1, self.steps // 10)

    @property
    def steps_between_checkpoints(self) -> int:
        """`save_every`, or what stands in for it."""
        return self.save_every or min(500, max(1, self.steps // 10))

    def require(self, name: str, low: float, high: float) -> None:
        """Raise ValueError unless the option is None or `low <= value <= high`."""
        value = getattr(self, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')} must be from {low} to {high}, got {value}")
