"""The attention weights of a torch model, by the return of its own modules."""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

# How a module is asked for its weights: one of ours, and torch's own.
ASKING: tuple[dict[str, Any], ...] = (
    {"return_weights": True},
    {"need_weights": True, "average_attn_weights": False},
)


def torch_attention_weights(
    module: Any, *args: Any, call: Callable[..., Any] | None = None, **kwargs: Any
) -> dict[str, list[np.ndarray]]:
    """Call a torch model, and get the weights of all its attentions.

    They come from `torch_ref`'s attentions, from `torch.nn.MultiheadAttention`, and from transformers' models with
    `attn_implementation="eager"`, whose attentions return them.

    Args:
        module: called as it stands, without gradients.
        args: arrays, or what else it takes; those of floats are cast to its parameters' dtype.
        kwargs: the same by name.
        call: `call(module, *args, **kwargs)` in place of `module(*args, **kwargs)`.

    Returns:
        by path, for each call `(B, N, T, S)`.

    Raises:
        ModuleNotFoundError: torch is not installed.
        ValueError: none of its modules gave weights.
    """
    import torch

    floats = (each.dtype for each in module.parameters() if each.is_floating_point())
    dtype = next(floats, torch.get_default_dtype())

    def tensor(value: Any) -> Any:
        if not (isinstance(value, np.ndarray) or _is_jax(value)):
            return value
        made = torch.tensor(np.asarray(value))
        return made.to(dtype) if made.is_floating_point() else made

    found: dict[str, list[np.ndarray]] = {}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodules
    try:
        with torch.no_grad(), _asked(module, found):
            run = module if call is None else partial(call, module)
            run(*map(tensor, args), **{name: tensor(value) for name, value in kwargs.items()})
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    if not found:
        raise ValueError(
            f"no attention of {type(module).__name__} gave weights: it has none of torch_ref and no "
            'torch.nn.MultiheadAttention; transformers\' need attn_implementation="eager"'
        )
    return found


@contextmanager
def _asked(module: Any, found: dict[str, list[np.ndarray]]) -> Generator[None]:
    """Within it every attention gives its weights, and returns what it was asked for."""
    changed = []
    for path, each in module.named_modules():
        taken = inspect.signature(each.forward).parameters
        asking = next((names for names in ASKING if names.keys() <= taken.keys()), None)
        before = each.__dict__.get("forward")
        changed.append((each, before))
        if asking is None:
            each.forward = partial(_looked_at, each.forward, path, found)
        else:
            each.forward = partial(_asking, each.forward, asking, path, found)
    try:
        yield
    finally:
        for each, before in changed:
            if before is None:
                del each.forward
            else:
                each.forward = before


def _asking(
    forward: Callable[..., Any],
    asking: dict[str, Any],
    path: str,
    found: dict[str, list[np.ndarray]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call with the weights asked for, and give back what the caller expects."""
    result = forward(*args, **{**kwargs, **asking})
    output, weights, *rest = result
    if weights is not None:
        found.setdefault(path, []).append(_array(weights))
    name = next(iter(asking))
    default = inspect.signature(forward).parameters[name].default
    if kwargs.get(name, default) or name == "need_weights":
        return result
    return (output, *rest) if rest else output


def _looked_at(
    forward: Callable[..., Any], path: str, found: dict[str, list[np.ndarray]], *args: Any, **kwargs: Any
) -> Any:
    """Call, and keep what looks like weights: a square of probabilities behind the output."""
    result = forward(*args, **kwargs)
    if (
        isinstance(result, tuple)
        and len(result) >= 2
        and not any(key.startswith(path + ".") for key in found)
    ):
        weights = result[1]
        if _are_weights(weights):
            found.setdefault(path, []).append(_array(weights))
    return result


def _are_weights(value: Any) -> bool:
    """Whether it is `(B, N, T, S)`, and its rows sum to at most 1."""
    if getattr(value, "ndim", 0) != 4 or not value.is_floating_point():
        return False
    return bool((value >= 0).all() and (value.sum(-1) < 1.01).all())


def _array(weights: Any) -> np.ndarray:
    array = weights.detach().to("cpu").float().numpy()
    return array if array.ndim == 4 else array[:, None] if array.ndim == 3 else array[None, None]


def _is_jax(value: Any) -> bool:
    return type(value).__module__.split(".")[0] in ("jax", "jaxlib")
