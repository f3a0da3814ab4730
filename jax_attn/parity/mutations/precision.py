"""Mutations of precision: a product in fewer bits than float32 has, on either side.

float32 inside is none: in float64 it is lifted on both sides.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Forward, Hits, watch
from jax_attn.parity.mutations.mutation import Mutation

PRODUCTS = ("linear", "matmul", "__matmul__", "bmm", "einsum", "conv1d", "conv2d", "conv3d")
SETTING = "precision"

Weight = Callable[[Any], Any] | None
"""Of a module: the one weight whose products are meant; None is all products."""


def rounded(x: Any, bits: int) -> Any:
    """The nearest number of so many significant bits; gradients pass."""
    import torch

    mantissa, exponent = torch.frexp(x.detach())
    near = torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent).to(x.dtype)
    return x + (near - x.detach())


def products(words: str, how: Callable[[Any, list[Any]], Any], with_bias: bool = False) -> Any:
    """`how(function, operands)` where two tensors are multiplied; a bias is added after it, or with it."""

    def caught(
        weight: Weight, forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if name not in PRODUCTS:
            return PASS
        wanted = None if weight is None else weight(forward.module)
        flat = [*args, *kwargs.values()]
        tensors = [value for value in flat if _is_double(value)]
        if len(tensors) < 2 or (wanted is not None and not any(value is wanted for value in flat)):
            return PASS
        bias = None
        if name == "linear" and not with_bias:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            args, kwargs = args[:2], {key: value for key, value in kwargs.items() if key != "bias"}
        here = "the product" if weight is None else "the product with it"
        forward.hits.add(f"{here} {words}", "in float64")
        slots = [value for value in args if _is_double(value)]

        def call(operands: list[Any]) -> Any:
            waiting = iter(operands)
            return function(*(next(waiting) if _is_double(arg) else arg for arg in args), **kwargs)

        value = how(call, slots)
        return value if bias is None else value + bias

    return lambda module, hits, weight=None: watch(module, partial(caught, weight), hits)


def _is_double(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def cast(name: str) -> Callable[[Any, list[Any]], Any]:
    """Operands and result in a narrower dtype."""

    def how(call: Any, operands: list[Any]) -> Any:
        import torch

        return call([operand.to(getattr(torch, name)) for operand in operands]).double()

    return how


def operands(bits: int) -> Callable[[Any, list[Any]], Any]:
    """Operands rounded, and the sum as exact as ever."""
    return lambda call, tensors: call([rounded(tensor, bits) for tensor in tensors])


PLANTERS = {
    "matmul-tf32": products("of operands in TF32", operands(11)),
    "matmul-bfloat16": products("in bfloat16", cast("bfloat16")),
    "matmul-bfloat16-operands": products("of operands in bfloat16", operands(8)),
    "linear-bfloat16": products("and the bias in bfloat16", cast("bfloat16"), with_bias=True),
}


def one_weight(mutation: Mutation, key: str) -> Mutation:
    """The mutation in the products with one weight."""
    injector = PLANTERS[mutation.name]

    def inject(module: Any, hits: Hits) -> None:
        injector(module, hits, lambda live: live.get_parameter(key))

    return replace(mutation, setting=f"{mutation.setting} of {key}", injector=inject)


def has_products(module: Any) -> bool:
    """Whether anything is multiplied in a module, as far as its weights tell."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


SUMMARIES = {
    "matmul-tf32": "operands of matrix products rounded to TF32",
    "matmul-bfloat16": "matrix products in bfloat16",
    "matmul-bfloat16-operands": "operands of matrix products rounded to bfloat16",
    "linear-bfloat16": "matrix products and what is added to them in bfloat16",
}

PRECISION = [
    Mutation(name, SUMMARIES[name], SETTING, has_products, injector,
             family="precision", pitfalls=(21, 41), on=("feed-forward-gelu",))
    for name, injector in PLANTERS.items()
]  # fmt: skip
