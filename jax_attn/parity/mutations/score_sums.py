"""Mutations of scores that are a sum of products: with content and with position, of two parts of each head."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY, is_attention
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks, tensor_and_number
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import PRODUCTS, SUMS, operands
from jax_attn.parity.runners.torch_attention import attention_written_out

DIVIDE = ("div", "__truediv__", "true_divide", "div_", "__itruediv__")


@dataclass(frozen=True)
class Scores:
    """What scores are the sum of.

    Attributes:
        terms: the products.
        widths: how many numbers each product is a sum of; those of two parts side by side are two.
        count: how many products there were, with those that were left out.
    """

    terms: tuple[Any, ...]
    widths: tuple[int, ...]
    count: int = 1


Scale = Callable[[TorchCall, Any, Scores, float], Any]
"""`(call, sum, scores, factor)` to what is made of the sum in place of `factor * sum`, or PASS."""


class SumOfProducts:
    """Follows products to their sum, and to what it is multiplied with.

    Args:
        term: which of the products is left out, counted from 1; None is none.
        scale: what the sum is scaled by.
        turned: whether what was gathered is transposed.
    """

    def __init__(self, term: int | None = None, scale: Scale | None = None, turned: bool = True):
        self.term = term
        self.scale = scale
        self.turned = turned

    def __call__(self, call: TorchCall) -> Any:
        """See what a torch function makes of products."""
        if call.name == "scaled_dot_product_attention":
            with call.forward.mode:
                return attention_written_out(*call.args, **call.kwargs)
        scores, sides = Marks(call, "products"), Marks(call, "side by side")
        if call.name in ("cat", "concat", "concatenate") and len(call.args[0]) == 2:
            value = call.run()
            widths = tuple(part.shape[-1] for part in call.args[0])
            return sides.put(value, widths) if value.shape[-1] == sum(widths) else value
        if call.name in PRODUCTS:
            return self._product(call, scores, sides)
        if call.name == "gather" and scores.of(call.args[0]):
            return Marks(call, "gathered").put(scores.carried(call, "gather"), True)
        if call.name in SUMS and len(call.args) > 1:
            return self._sum(call, scores, *call.args[:2])
        found = tensor_and_number(call) if call.name in (*MULTIPLY, *DIVIDE) else None
        if found and scores.of(found[0]):
            return self._scaled(call, scores, *found)
        value = scores.carried(call)
        if value is not PASS and not self.turned and Marks(call, "gathered").of(call.args[0]):
            return self._not_turned(call, scores, value)
        return sides.carried(call) if value is PASS else value

    def _product(self, call: TorchCall, scores: Marks, sides: Marks) -> Any:
        found = operands(call.name, call.args) if call.name != "baddbmm" else None
        value = call.run()
        if found is not None:
            of_queries = next((sides.of(arg) for arg in call.args if sides.of(arg)), (found[0].shape[-1],))
            scores.put(value, Scores((value,), of_queries))
        return value

    def _sum(self, call: TorchCall, scores: Marks, left: Any, right: Any) -> Any:
        a, b = scores.of(left), scores.of(right)
        if not a or not b:
            return PASS
        both = Scores((*_terms(left, a), *_terms(right, b)), (*a.widths, *b.widths), a.count + b.count)
        if self.term == both.count:
            call.hits.add(f"{self.term - 1} of them", f"scores are a sum of {self.term} products")
            return scores.put(left * 1, replace(a, count=both.count))
        return scores.put(call.run(), both)

    def _scaled(self, call: TorchCall, scores: Marks, value: Any, number: float) -> Any:
        known, factor = scores.of(value), 1 / number if call.name in DIVIDE else number
        made = (
            PASS if self.scale is None or len(known.widths) == 1 else self.scale(call, value, known, factor)
        )
        return scores.put(call.run() if made is PASS else made, known)

    def _not_turned(self, call: TorchCall, scores: Marks, value: Any) -> Any:
        (source, *_) = call.args
        if not hasattr(value, "shape") or source.shape != value.shape or not _is_turned(source, value):
            return value
        call.hits.add("as it was gathered", "what was gathered by key is transposed")
        return scores.put(source * 1, scores.of(source))


def _terms(value: Any, known: Scores) -> tuple[Any, ...]:
    """The terms of a sum; a product is one itself, in whatever shape it has by now."""
    return (value,) if len(known.terms) == 1 else known.terms


def _is_turned(source: Any, value: Any) -> bool:
    return value.stride() == source.mT.stride() and value.data_ptr() == source.data_ptr()


def _by(count: Callable[[Scores], int], instead: Callable[[Scores], int]) -> Scale:
    """The root of another width than the one that torch divides by."""

    def scale(call: TorchCall, value: Any, scores: Scores, factor: float) -> Any:
        right, wrong = count(scores), instead(scores)
        if abs(factor * right**0.5 - 1) > 1e-6:
            return PASS
        call.hits.add(f"scores / sqrt({wrong})", f"scores / sqrt({right})")
        return value * wrong**-0.5

    return scale


def _first(scores: Scores) -> int:
    return scores.widths[0]


def _all(scores: Scores) -> int:
    return sum(scores.widths)


def _first_alone(call: TorchCall, value: Any, scores: Scores, factor: float) -> Any:
    if len(scores.terms) == 1:
        return PASS
    call.hits.add("the first product alone is scaled", "the sum of the products is scaled")
    return value - scores.terms[0] * (1 - factor)


def _mutation(name: str, summary: str, setting: str, change: SumOfProducts, *on: str) -> Mutation:
    injector: Injector = watching(change)
    return Mutation(name, summary, setting, is_attention, injector, family="attention", on=on)


LATENT, DEBERTA, RELATIVE = "attention-latent", "attention-disentangled", "attention-relative"

SCORE_SUMS = [
    _mutation("scores-second-missing", "of the products that make up the scores the second is left out", "scores",
              SumOfProducts(term=2), LATENT, DEBERTA, RELATIVE),
    _mutation("scores-third-missing", "of the products that make up the scores the third is left out", "scores",
              SumOfProducts(term=3), DEBERTA),
    _mutation("scores-not-transposed", "scores that were gathered by key are not transposed", "scores",
              SumOfProducts(turned=False), DEBERTA),
    _mutation("scale-of-first", "a sum of products is divided by the root of the first one's width", "scale",
              SumOfProducts(scale=_by(_all, _first)), LATENT, DEBERTA),
    _mutation("scale-of-all", "a sum of products is divided by the root of all their widths", "scale",
              SumOfProducts(scale=_by(_first, _all)), RELATIVE),
    _mutation("scale-first-alone", "of the products that make up the scores the first alone is scaled", "scale",
              SumOfProducts(scale=_first_alone), LATENT, DEBERTA, RELATIVE),
]  # fmt: skip
