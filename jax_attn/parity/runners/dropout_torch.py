"""torch's side of shared dropout masks: every way into dropout takes its mask from a tape."""

import pickle
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.dropout_places import place_in_torch
from jax_attn.parity.runners.torch_attention import attention_written_out
from jax_attn.parity.runners.torch_functions import intercepting

# What else draws, by name; the state of the generators shows the rest.
DRAWING = ["bernoulli", "multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm", "rrelu"]
RANDOM = {f"{name}{ending}" for name in DRAWING for ending in ("", "_", "_like")} | {
    *("cauchy_", "exponential_", "geometric_", "log_normal_", "random_", "uniform_")
}
UNIFORM = {"rand", "rand_like"}


@contextmanager
def record(tape: Tape, module: Any = None) -> Generator[None]:
    """Within it, torch's dropout takes its masks from `tape`, which draws them for the submodules of `module`.

    Caught are `functional.dropout` and its variants by channel, `torch.dropout`, `functional.alpha_dropout`
    (refused), and the dropout inside `scaled_dot_product_attention` and `multi_head_attention_forward`, also
    where the function was imported by name. Whatever else draws random numbers is noted in `tape.elsewhere`.
    """
    import torch

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

    def caught(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Functions that were imported by name are out of the patches' reach."""
        name = getattr(function, "__name__", "")
        if name in UNIFORM and tape.uniform is not None:
            with torch.random.fork_rng(devices=()):
                return function(*args, **kwargs).fill_(tape.uniform)
        if name in RANDOM and name not in tape.elsewhere:
            tape.elsewhere.append(name)
        return by_function.get(function, function)(*args, **kwargs)

    before = _generators()
    tape.rewind()
    patches = mock.patch.multiple(F, **in_functional), mock.patch.object(torch, "dropout", plain_dropout)
    with patches[0], patches[1], intercepting(caught):
        yield
    if not tape.elsewhere and _generators() != before:
        tape.elsewhere.append("within some function")


def _generators() -> list[Any]:
    """The states of all generators that a module can draw from without having one of its own."""
    import torch

    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]
    return [*states, random.getstate(), pickle.dumps(np.random.get_state())]
