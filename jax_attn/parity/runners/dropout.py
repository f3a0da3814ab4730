"""The same dropout masks on both sides.

No two frameworks draw the same numbers. So torch runs first with every call of dropout intercepted, and its
masks kept on a tape; then the tape is played to Flax. A mask belongs to the innermost pair of modules around
its call (see `dropout_places`); within one pair the order of the calls decides, and so it does where no pair is
known. Two modules that call dropout on other shapes, more or less often, or with another rate, are told apart.
"""

import itertools
import math
import pickle
import random
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jax_attn.functional.dropout import keep_masks_from
from jax_attn.parity.runners.dropout_places import place_in_flax, place_in_torch
from jax_attn.parity.runners.torch_attention import attention_written_out
from jax_attn.parity.runners.unrolled import unrolled_scan


class DropoutMismatch(Exception):
    """The two sides call dropout differently."""


class TooFewDraws(DropoutMismatch):
    """Flax drew fewer masks than torch."""


@dataclass(frozen=True)
class Draw:
    """A mask's rate, and the torch path of the submodule that draws it."""

    rate: float
    place: str = ""


class Tape:
    """The masks of one forward pass in the order of the calls, True = keep, and what is known of each draw.

    `elsewhere` names what else drew random numbers, of which there is no record. With `uniform`, all numbers
    that torch draws between 0 and 1 are this one, and are not named.
    """

    def __init__(self, seed: int = 0, uniform: float | None = None):
        self.seed = seed
        self.uniform = uniform
        self.masks: list[np.ndarray] = []
        self.elsewhere: list[str] = []
        self._draws: list[Draw] = []

    def rewind(self) -> None:
        """Forget what was drawn: a run that failed is tried in another way."""
        self.masks.clear()
        self._draws.clear()
        self.elsewhere.clear()

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The rate and the place of each mask."""
        return tuple(self._draws)

    def in_order(self) -> "Tape":
        """The same masks of no place: the order of the calls alone decides."""
        other = Tape(self.seed, self.uniform)
        other.masks, other.elsewhere = self.masks, self.elsewhere
        other._draws = [replace(draw, place="") for draw in self._draws]
        return other

    def draw(self, shape: Sequence[int], rate: float, place: str = "") -> np.ndarray:
        """The next mask."""
        generator = np.random.default_rng([self.seed, 2, len(self.masks)])
        mask = generator.random(tuple(shape)) >= rate
        self.masks.append(mask)
        self._draws.append(Draw(rate, place))
        return mask


# torch: every way into dropout.

# What else draws, by name; the state of the generators tells of the rest.
RANDOM = frozenset(
    f"{name}{ending}"
    for name in (
        "bernoulli",
        "multinomial",
        "normal",
        "poisson",
        "rand",
        "randint",
        "randn",
        "randperm",
        "rrelu",
    )
    for ending in ("", "_", "_like")
) | {"cauchy_", "exponential_", "geometric_", "log_normal_", "random_", "uniform_"}
UNIFORM = {"rand", "rand_like"}


@contextmanager
def record(tape: Tape, module: Any = None) -> Generator[None]:
    """Within it, torch's dropout takes its masks from `tape`, which draws them for the submodules of `module`.

    Caught are `functional.dropout` and its variants by channel, `torch.dropout`, `functional.alpha_dropout`
    (refused), and the dropout inside `scaled_dot_product_attention` and `multi_head_attention_forward`, also
    where the function was imported by name. Whatever else draws random numbers is noted in `tape.elsewhere`.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    F = torch.nn.functional
    fused = F.scaled_dot_product_attention
    paths = {} if module is None else {id(child): path for path, child in module.named_modules()}

    def drop(x: Any, p: float, shape: Sequence[int]) -> Any:
        if p == 0.0:
            return x
        if p == 1.0:
            return torch.zeros_like(x) * x
        mask = torch.from_numpy(tape.draw(shape, p, place_in_torch(paths))).to(x.device)
        return x * mask / (1 - p)

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return drop(input, p, input.shape) if training else input

    def plain_dropout(input: Any, p: float, train: bool) -> Any:
        return dropout(input, p, train)

    def channels(axes: int) -> Callable[..., Any]:
        def dropout_of_channels(
            input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
        ) -> Any:
            kept = input.ndim - axes
            shape = (*input.shape[:kept], *([1] * axes))
            return drop(input, p, shape) if training else input

        return dropout_of_channels

    def refused(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
        if training and p > 0:
            raise NotImplementedError("alpha dropout cannot be compared: Flax has none")
        return input

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Any:
        function = attention_written_out if dropout_p else fused
        return function(query, key, value, attn_mask, dropout_p, is_causal, **options)

    in_functional: dict[str, Any] = {
        "dropout": dropout,
        "dropout1d": channels(1),
        "dropout2d": channels(2),
        "dropout3d": channels(3),
        "alpha_dropout": refused,
        "feature_alpha_dropout": refused,
        "scaled_dot_product_attention": attention,
    }
    by_function = {getattr(F, name): ours for name, ours in in_functional.items()}
    by_function[torch.dropout] = plain_dropout

    class Catch(TorchFunctionMode):
        """Catches the functions that were imported by name, and so are out of the patches' reach."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if name in UNIFORM and tape.uniform is not None:
                with torch.random.fork_rng(devices=()):
                    return func(*args, **(kwargs or {})).fill_(tape.uniform)
            if name in RANDOM and name not in tape.elsewhere:
                tape.elsewhere.append(name)
            return by_function.get(func, func)(*args, **(kwargs or {}))

    before = _generators()
    tape.rewind()
    with mock.patch.multiple(F, **in_functional), mock.patch.object(torch, "dropout", plain_dropout), Catch():
        yield
    if not tape.elsewhere and _generators() != before:
        tape.elsewhere.append("within some function")


def _generators() -> list[Any]:
    """The states of all generators that a module can draw from without having one of its own."""
    import torch

    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]
    return [*states, random.getstate(), pickle.dumps(np.random.get_state())]


# Flax: every dropout draws with jax.random.bernoulli.

_playing = threading.local()
_one_at_a_time = threading.Lock()  # the patches are the whole process's
_traced_for = jax.make_user_context(None)
_count = itertools.count(1)


def fresh_trace(owner: Any | None) -> AbstractContextManager[Any]:
    """Within it nothing is taken from the trace caches of other owners, and nothing is left in theirs.

    A function that was traced with a mask of the tape inside must not be found again outside.
    """
    if owner is None:
        return nullcontext()
    if not hasattr(owner, "_trace"):
        owner._trace = next(_count)
    return _traced_for(owner._trace)


@contextmanager
def replay(masks: Sequence[Any], draws: Sequence[Draw], jitted: bool = True) -> Generator[None]:
    """Within it, `jax.random.bernoulli` gives these masks, each where it belongs. Scans are unrolled.

    A draw that keeps all or nothing takes no mask, as torch draws none for it. `jitted` is False where jit is
    turned off: then nothing that drew can be found in a cache.

    Raises:
        DropoutMismatch: a draw of another size or rate than torch's, or more or fewer draws.
    """
    with _one_at_a_time, ExitStack() as traces:
        yield from _replay(masks, draws, traces if jitted else None)


def _replay(masks: Sequence[Any], draws: Sequence[Draw], traces: ExitStack | None) -> Generator[None]:
    drawn = 0
    left = list(range(len(masks)))

    def next_mask(key: Any, p: Any = 0.5, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        nonlocal drawn
        shape = tuple(np.shape(p) if shape is None else shape)
        if not isinstance(p, Tracer) and np.ndim(p) == 0 and p in (0, 1):
            return jnp.full(shape, bool(p))
        if drawn >= len(masks):
            raise DropoutMismatch(
                f"flax calls dropout more often than torch: call {drawn + 1}, of shape {shape}, "
                f"after torch's {len(masks)}"
            )
        place = place_in_flax()
        number = next((number for number in left if draws[number].place == place), left[0])
        left.remove(number)
        mask, rate = masks[number], draws[number].rate
        drawn += 1
        if math.prod(shape) != mask.size:
            raise DropoutMismatch(f"dropout call {drawn}: flax draws {shape}, torch {tuple(mask.shape)}")
        if not isinstance(p, Tracer) and abs(1 - float(p) - rate) > 1e-6:
            raise DropoutMismatch(
                f"dropout call {drawn}: the rate is {1 - float(p):.6g} in flax, {rate:.6g} in torch"
            )
        # A function that drew, such as a layer under remat, is traced anew when it is next called.
        if traces is not None:
            traces.enter_context(_traced_for(next(_count)))
        return jnp.reshape(mask, shape)

    _playing.next_mask = next_mask
    try:
        with (
            mock.patch.object(jax.random, "bernoulli", _bernoulli),
            mock.patch.object(jax.lax, "scan", _scan if masks else jax.lax.scan),
            keep_masks_from(_bernoulli),  # our own attention draws no masks as arrays, unless they are given
        ):
            yield
    finally:
        del _playing.next_mask
    if drawn < len(masks):
        raise TooFewDraws(
            f"torch calls dropout {len(masks)} times, flax {drawn}: torch's call {left[0] + 1} "
            f"is of shape {tuple(masks[left[0]].shape)}"
        )


_real_bernoulli = jax.random.bernoulli


def _bernoulli(*args: Any, **kwargs: Any) -> Any:
    return getattr(_playing, "next_mask", _real_bernoulli)(*args, **kwargs)


_scan = unrolled_scan(lambda: hasattr(_playing, "next_mask"))
