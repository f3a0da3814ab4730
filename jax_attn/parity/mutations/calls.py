"""What a module has and calls: read from its code, and noted while it runs."""

import dis
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

from jax_attn.parity.runners.torch_functions import intercepting


class Called(set[str]):
    """Names of the functions that a module's forward was seen to call, submodules not included."""

    def __deepcopy__(self, memo: Any) -> "Called":
        return self  # what copies of a module call, it calls


COSINES = "cosines and sines"
"""Stands among the names for a product with cosines and sines."""


@contextmanager
def observed(module: Any) -> Generator[None]:
    """Within it, take note of the functions that the forward of a module, or of its copies, calls.

    What is computed decides whether a mutation fits, wherever the code of it stands. The note stays in the module:
    it has to be a copy of the user's own.
    """
    from torch.nn.modules import module as hooks

    for child in module.modules():
        vars(child).setdefault(CALLED, Called())
    running: list[tuple[Called, dict[Any, Any]]] = []

    def enter(child: Any, args: Any) -> None:
        running.append((vars(child).get(CALLED, Called()), {}))

    def leave(child: Any, args: Any, value: Any) -> None:
        running.pop()

    def caught(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", "")
        if running:
            called, factors = running[-1]
            called.add(name)
            if name in MULTIPLY and any(turns(factors, factor) for factor in args[:2]):
                called.add(COSINES)
        return function(*args, **kwargs)

    with ExitStack() as stack:
        stack.callback(hooks.register_module_forward_pre_hook(enter).remove)
        stack.callback(hooks.register_module_forward_hook(leave, always_call=True).remove)
        stack.enter_context(intercepting(caught))
        yield


CALLED = "_called_functions"
CONVOLVE = ("conv1d", "conv2d")
MULTIPLY = ("mul", "__mul__", "__rmul__", "mul_", "__imul__")


def turns(seen: dict[Any, Any], factor: Any) -> bool:
    """Whether a factor is one of cosines and sines, kept in `seen["cosines"]`: their squares sum to 1."""
    import torch

    if "cosines" in seen:
        return True
    if not isinstance(factor, torch.Tensor) or factor.ndim < 2:
        return False
    if factor.is_complex():
        if not torch.allclose(factor.abs(), torch.ones_like(factor.real), rtol=0, atol=1e-5):
            return False
        seen["cosines"], seen["in steps of two"] = (factor.real.detach(), factor.imag.detach()), True
        return True
    if not factor.is_floating_point() or factor.numel() < 4 or factor.abs().max() > 1 + 1e-6:
        return False
    waiting = seen.setdefault("factors", [])
    for other in waiting:
        if other.shape == factor.shape and other is not factor:
            one = other**2 + factor**2
            if torch.allclose(one, torch.ones_like(one), rtol=0, atol=1e-5):
                seen["cosines"] = other.detach(), factor.detach()
                return True
    waiting.append(factor)
    return False


def functions_of(module: Any) -> set[str]:
    """Names of functions that a module and its submodules were seen to call, mention or hold."""
    names: set[str] = set()
    for child in module.modules():
        names |= _mentioned(type(child)) | vars(child).get(CALLED, set())
        for value in vars(child).values():
            value = getattr(value, "func", value)
            if callable(value):
                names.add(getattr(value, "__name__", type(value).__name__))
    return names


def uses(*names: str) -> Callable[[Any], bool]:
    """Whether a module calls one of these functions, or holds a layer that is called so."""
    return lambda module: bool(functions_of(module) & set(names))


@lru_cache(256)  # classes of injected modules are let go again
def _mentioned(kind: type) -> frozenset[str]:
    import torch

    names = {kind.__name__}
    for base in kind.__mro__:
        if base in (object, torch.nn.Module):
            continue
        for method in vars(base).values():
            names |= _names_of(method, set())
    return frozenset(names)


def _names_of(function: Any, seen: set[int]) -> set[str]:
    """The names in a function's code, and in that of the functions it calls, as far as torch's own."""
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    if code is None or id(function) in seen or len(seen) > 50:
        return set()
    seen.add(id(function))
    names = set(_names_in(code))
    around = getattr(function, "__globals__", {})
    for name in _globals_in(code):
        called = around.get(name)
        if str(getattr(called, "__module__", "torch")).partition(".")[0] != "torch":
            names |= _names_of(called, seen)
    return names


def _globals_in(code: Any) -> set[str]:
    return {part.argval for part in dis.get_instructions(code) if part.opname == "LOAD_GLOBAL"}


def _names_in(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names_in(constant)


def is_attention(module: Any) -> bool:
    """Whether there is attention in a module."""
    names = functions_of(module)
    softmax = bool(names & {"softmax", "Softmax"})
    fused = {"scaled_dot_product_attention", "MultiheadAttention", "multi_head_attention_forward"}
    return bool(names & fused) or (
        softmax and bool(names & {"mT", "transpose", "einsum", "matmul", "__matmul__", "bmm"})
    )
