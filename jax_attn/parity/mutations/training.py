"""Mutations of optimizers, schedules and clipping, which are injected into torch's side of a training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from jax_attn.parity.mutations.injection import Hits
from jax_attn.parity.mutations.mutation import Injector, Mutation

Make = Callable[[list[Any]], Any]
Clip = Callable[[list[Any]], Any]


@dataclass
class TorchTraining:
    """What torch trains with: an optimizer, perhaps a scheduler, and perhaps a function that clips."""

    optimizer: Any
    scheduler: Any = None
    clip: Clip | None = None

    @classmethod
    def of(cls, built: Any, clip: Clip | None) -> "TorchTraining":
        """From what a user's function gives: an optimizer, or one with its scheduler."""
        return cls(*built, clip=clip) if isinstance(built, tuple) else cls(built, clip=clip)


def inject_training(mutation: Mutation, make: Make, clip: Clip | None) -> tuple[Make, Clip | None, Hits]:
    """The functions that make torch's optimizer and clip, with a mutation in them; and what the mutation does."""
    hits = Hits()
    made: list[TorchTraining] = []

    def injected(parameters: list[Any]) -> Any:
        training = TorchTraining.of(make(parameters), clip)
        mutation.injector(training, hits)
        made[:] = [training]
        return training.optimizer, training.scheduler

    def clipped(parameters: list[Any]) -> None:
        if made[0].clip is not None:
            made[0].clip(parameters)

    return injected, None if clip is None else clipped, hits


def _optimizer(
    name: str,
    summary: str,
    setting: str,
    fits: Callable[[Any], bool],
    injector: Injector,
    *on: str,
) -> Mutation:
    """A mutation of an optimizer that `fits` it."""
    return Mutation(
        name,
        summary,
        setting,
        lambda training: fits(training.optimizer),
        injector,
        family="optimizers",
        on=on,
    )


def _of(*kinds: str) -> Callable[[Any], bool]:
    """Whether an optimizer is of one of these classes."""
    return lambda optimizer: type(optimizer).__name__ in kinds


# Settings of the groups.


def _setting(
    name: str, summary: str, key: str, other: Callable[[Any], Any], *on: str, of: str = ""
) -> Mutation:
    """A setting of every group is `other(it)`; only in optimizers `of` this class, if one is named."""

    def fits(optimizer: Any) -> bool:
        known = not of or _of(of)(optimizer)
        return known and any(key in g and other(g[key]) != g[key] for g in optimizer.param_groups)

    def injector(training: TorchTraining, hits: Hits) -> None:
        for group in training.optimizer.param_groups:
            changed = other(group[key])
            if changed != group[key]:
                hits.add(f"{key} {changed}", group[key])
                group[key] = changed

    return _optimizer(name, summary, key, fits, injector, *on)


ADAM = ("Adam", "AdamW")


def _decays(optimizer: Any) -> bool:
    """Whether weights decay, coupled to the gradients or not, as a flag has it."""
    groups = optimizer.param_groups
    return any("decoupled_weight_decay" in group and group["weight_decay"] for group in groups)


def _inject_decay(training: TorchTraining, hits: Hits) -> None:
    words = "with the gradient, as L2", "apart from the gradient"
    for group in training.optimizer.param_groups:
        decoupled = group["decoupled_weight_decay"]
        hits.add(words[not decoupled], words[decoupled])
        group["decoupled_weight_decay"] = not decoupled


def _inject_accumulator(training: TorchTraining, hits: Hits) -> None:
    for state in training.optimizer.state.values():
        hits.add("sum of squares from 0.1", f"from {float(state['sum'].flatten()[0]):g}")
        state["sum"].fill_(0.1)


def _inject_no_correction(training: TorchTraining, hits: Hits) -> None:
    """A step so late that what is corrected for has faded, from the second on."""

    def late(optimizer: Any, *_: Any) -> None:
        for state in optimizer.state.values():
            hits.add("no bias correction", "bias correction")
            state["step"].fill_(1e7)

    training.optimizer.register_step_pre_hook(late)


def _inject_eps_inside(training: TorchTraining, hits: Hits) -> None:
    import torch

    optimizer, step, root = training.optimizer, training.optimizer.step, torch.Tensor.sqrt
    eps = optimizer.param_groups[0]["eps"]

    def root_with_eps(tensor: Any) -> Any:
        hits.add("eps inside the root", "outside")
        return root(tensor + eps)

    def inside(*args: Any) -> Any:
        for group in optimizer.param_groups:
            group["eps"] = 0.0
        with mock.patch.object(torch.Tensor, "sqrt", root_with_eps):
            return step(*args)

    optimizer.step = inside


def _inject_frozen(training: TorchTraining, hits: Hits) -> None:
    hits.add("the last parameter is not trained", "it is")
    training.optimizer.param_groups[-1]["params"].pop()


# Schedules.


class _Schedule:
    """A scheduler whose n-th step is another's; `turns(n)` says how often that steps."""

    def __init__(self, scheduler: Any, turns: Callable[[int], int]):
        self.scheduler = scheduler
        self.turns = turns
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        for _ in range(self.turns(self.steps)):
            self.scheduler.step()


def _schedule(
    name: str, summary: str, word: str, turns: Callable[[Any], Callable[[int], int]], *on: str, of: str = ""
) -> Mutation:
    def fits(training: TorchTraining) -> bool:
        return training.scheduler is not None and type(training.scheduler).__name__.startswith(of)

    def injector(training: TorchTraining, hits: Hits) -> None:
        hits.add(word, "as torch has it")
        training.scheduler = _Schedule(training.scheduler, turns(training.scheduler))

    return Mutation(name, summary, "learning rate", fits, injector, family="schedules", on=on)


# Clipping.


def _clipping(name: str, summary: str, change: Callable[..., Any]) -> Mutation:
    """`change(hits, gradients, largest)`, in place, for clipping them to a norm of `largest`."""

    def fits(training: TorchTraining) -> bool:
        return training.clip is not None

    def injector(training: TorchTraining, hits: Hits) -> None:
        training.clip = partial(_clip_otherwise, training.clip, partial(change, hits))

    return Mutation(name, summary, "clipping", fits, injector, family="clipping", on=("adamw",))


def _clip_otherwise(clip: Clip | None, change: Callable[..., Any], parameters: list[Any]) -> None:
    """Clip as ever, learn from it to which norm, and do otherwise."""
    assert clip is not None  # the mutation fits none else
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    before = [gradient.clone() for gradient in gradients]
    norm = _norm(before)
    clip(parameters)
    after = _norm(gradients)
    if after < norm * (1 - 1e-9):
        for gradient, old in zip(gradients, before, strict=True):
            gradient.copy_(old)
        change(gradients, float(after / norm * (norm + 1e-6)))


def _norm(gradients: list[Any]) -> Any:
    import torch

    return torch.stack([gradient.norm() for gradient in gradients]).norm()


def _without_eps(hits: Hits, gradients: list[Any], largest: float) -> None:
    hits.add("divided by the norm", "by the norm + 1e-6")
    factor = largest / _norm(gradients)
    for gradient in gradients:
        gradient.mul_(factor)


def _each(hits: Hits, gradients: list[Any], largest: float) -> None:
    hits.add("each gradient by its own norm", "all by the norm of all")
    for gradient in gradients:
        gradient.mul_((largest / (gradient.norm() + 1e-6)).clamp(max=1.0))


def _not_at_all(hits: Hits, gradients: list[Any], largest: float) -> None:
    hits.add("no clipping", "clipping")


TRAINING = [
    _setting("decay-of-optax", "weight decay of 1e-4, which is optax's default", "weight_decay",
             lambda decay: 1e-4 if decay else decay, "adamw"),
    _setting("decay-missing", "no weight decay", "weight_decay", lambda decay: 0, "sgd"),
    _optimizer("decay-coupling", "decay with the gradient for decay apart from it, or the other way round",
               "weight_decay", _decays, _inject_decay, "adam-cosine", "adamw"),
    _setting("eps-larger", "eps a thousand times as large", "eps", lambda eps: 1e3 * eps,
             "adamw", "adagrad", "nadam"),
    _optimizer("eps-inside", "eps is added inside the root", "eps", _of(*ADAM, "RMSprop"), _inject_eps_inside,
               "adamw", "rmsprop"),
    _setting("alpha-of-optax", "a decay of 0.9, which is optax's default for RMSprop", "alpha",
             lambda alpha: 0.9, "rmsprop"),
    _optimizer("accumulator-of-optax", "Adagrad's sum begins with 0.1, which is optax's default",
               "initial_accumulator_value", _of("Adagrad"), _inject_accumulator, "adagrad"),
    _setting("beta2-smaller", "beta2 of 0.99", "betas", lambda betas: (betas[0], 0.99), "adamw", "radam"),
    _optimizer("correction-missing", "moments are not corrected for their bias", "bias correction",
               _of(*ADAM), _inject_no_correction, "adam-cosine", "adamw"),
    _setting("momentum-decay-missing", "the momentum of NAdam does not decay", "momentum_decay",
             lambda decay: 0.0, "nadam"),
    _setting("dampening-missing", "no dampening", "dampening", lambda dampening: 0, "sgd"),
    _setting("nesterov-missing", "momentum without Nesterov's correction", "nesterov",
             lambda nesterov: False, "sgd-linear-lr", of="SGD"),
    _setting("momentum-missing", "no momentum", "momentum", lambda momentum: 0, "rmsprop", of="RMSprop"),
    _optimizer("parameter-frozen", "a parameter is not trained", "parameters",
               lambda optimizer: len(optimizer.param_groups[-1]["params"]) > 1, _inject_frozen, "sgd", "radam"),
    _schedule("schedule-late", "the learning rate of the step before", "a step late",
              lambda scheduler: lambda n: int(n > 1), "sgd-linear-lr", "adam-cosine"),
    _schedule("schedule-early", "the learning rate of the step after", "a step early",
              lambda scheduler: lambda n: 1 + (n == 1), "sgd-linear-lr"),
    _schedule("schedule-stays-low", "the cosine does not climb again after T_max", "it stays at its lowest",
              lambda scheduler: lambda n: int(n <= scheduler.T_max), "adam-cosine", of="CosineAnnealingLR"),
    _clipping("clip-without-eps", "gradients are divided by their norm, without 1e-6", _without_eps),
    _clipping("clip-each", "every gradient is clipped by itself", _each),
    _clipping("clip-missing", "gradients are not clipped", _not_at_all),
]  # fmt: skip

TRAINING_MUTATIONS: dict[str, Mutation] = {mutation.name: mutation for mutation in TRAINING}


def training_mutations_for(training: TorchTraining) -> list[Mutation]:
    """The mutations that a training could have."""
    return [mutation for mutation in TRAINING if mutation.fits(training)]
