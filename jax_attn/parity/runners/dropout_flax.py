"""Flax's side of shared dropout masks: every dropout draws with `jax.random.bernoulli`, which is replaced."""

import itertools
import math
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jax_attn.functional.dropout import keep_masks_from
from jax_attn.parity.runners.dropout import Draw, DropoutMismatch, TooFewDraws
from jax_attn.parity.runners.dropout_places import place_in_flax
from jax_attn.parity.runners.unrolled import unrolled_scan

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


def replayed(
    jitted: Callable[..., Any],
    plain: Callable[..., Any],
    arrays: tuple[Any, ...],
    static: tuple[Any, ...],
    owner: Any,
) -> Any:
    """Call a jitted function that replays masks; as it is, where Flax then draws fewer masks than torch.

    Args:
        jitted: the function of `(*arrays, *static)`.
        plain: the same without jit.
        arrays: trees of arrays.
        static: static arguments.
        owner: see `fresh_trace`; None where there are no masks.
    """
    try:
        with fresh_trace(owner):
            return jitted(*arrays, *static)
    except TooFewDraws:
        # Perhaps a loop that is traced once and runs often; without jit each turn draws for itself.
        with jax.disable_jit():
            return plain(*jax.tree.map(jnp.asarray, arrays), *static)


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
