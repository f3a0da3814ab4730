"""Mutations of precision: a product in fewer bits than float32 has, on either side.

float32 inside is none: in float64 it is lifted on both sides.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Hits, TorchCall, watch
from jax_attn.parity.mutations.mutation import Mutation

PRODUCTS = ("linear", "matmul", "__matmul__", "bmm", "einsum", "conv1d", "conv2d", "conv3d")

How = Callable[[Callable[..., Any], list[Any]], Any]
"""`how(function, operands)` gives the product."""


@dataclass(frozen=True)
class Products:
    """What becomes of products of two tensors; a bias is added after it, or as a part of it.

    Args:
        words: says it of "the product".
        how: gives the product.
        with_bias: whether the bias is a part of it.
        key: of the one weight whose products are meant; empty is all products.
    """

    words: str
    how: How
    with_bias: bool = False
    key: str = ""

    def __call__(self, call: TorchCall) -> Any:
        """Multiply otherwise."""
        if call.name not in PRODUCTS or sum(map(_is_double, call.values)) < 2:
            return PASS
        weight = call.forward.module.get_parameter(self.key) if self.key else None
        if weight is not None and not any(value is weight for value in call.values):
            return PASS
        bias, args, kwargs = None, call.args, call.kwargs
        if call.name == "linear" and not self.with_bias:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            args, kwargs = args[:2], {key: value for key, value in kwargs.items() if key != "bias"}
        here = "the product with it" if self.key else "the product"
        call.hits.add(f"{here} {self.words}", "in float64")

        def function(operands: list[Any]) -> Any:
            waiting = iter(operands)
            return call.function(*(next(waiting) if _is_double(arg) else arg for arg in args), **kwargs)

        value = self.how(function, [value for value in args if _is_double(value)])
        return value if bias is None else value + bias

    def inject(self, module: Any, hits: Hits) -> None:
        """Put it into a module."""
        watch(module, self, hits)


def _is_double(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def _cast(name: str, function: Any, operands: list[Any]) -> Any:
    """Operands and result in a narrower dtype."""
    import torch

    return function([operand.to(getattr(torch, name)) for operand in operands]).double()


def _rounded(bits: int, function: Any, operands: list[Any]) -> Any:
    """Operands of so many significant bits, and the sum as exact as ever; gradients pass."""
    import torch

    def near(x: Any) -> Any:
        mantissa, exponent = torch.frexp(x.detach())
        rounded = torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent).to(x.dtype)
        return x + (rounded - x.detach())

    return function([near(operand) for operand in operands])


BFLOAT16 = partial(_cast, "bfloat16")

PRODUCTS_OF: dict[str, tuple[str, Products]] = {
    "matmul-tf32": ("operands of matrix products rounded to TF32",
                    Products("of operands in TF32", partial(_rounded, 11))),
    "matmul-bfloat16": ("matrix products in bfloat16", Products("in bfloat16", BFLOAT16)),
    "matmul-bfloat16-operands": ("operands of matrix products rounded to bfloat16",
                                 Products("of operands in bfloat16", partial(_rounded, 8))),
    "linear-bfloat16": ("matrix products and what is added to them in bfloat16",
                        Products("and the bias in bfloat16", BFLOAT16, with_bias=True)),
}  # fmt: skip


def has_products(module: Any) -> bool:
    """Whether anything is multiplied in a module, as far as its weights show."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


PRECISION = [
    Mutation(name, summary, "precision", has_products, products.inject, family="precision",
             on=("feed-forward-gelu",))
    for name, (summary, products) in PRODUCTS_OF.items()
]  # fmt: skip


def one_weight(mutation: Mutation, key: str) -> Mutation:
    """The mutation in the products with one weight."""
    products = replace(PRODUCTS_OF[mutation.name][1], key=key)
    return replace(mutation, setting=f"precision of {key}", injector=products.inject)
