"""Mutations of features that are split into parts of two kinds, as those of latent attention are."""

from typing import Any

from jax_attn.parity.mutations.calls import uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.mutation import Injector, Mutation


def split(word: str, right: str, other: Any, *, of_heads: bool, number: int | None = None) -> Injector:
    """`other(x, sizes)` for the parts that features are split into.

    Args:
        word: what a diagnosis says of it, with the sizes in place of `{}`.
        right: the same of what ought to be.
        other: `(x, (a, b))` to the parts.
        of_heads: whether it is for heads `(b, n, t, h)` alone.
        number: which of the splits of a forward pass gets it, counted from 1; None is each.
    """

    def change(call: TorchCall) -> Any:
        if call.name not in ("split", "split_with_sizes") or len(call.args) < 2:
            return PASS
        x, sizes = call.args[:2]
        dim = call.named("x", "sizes", "dim").get("dim", 0)
        two = isinstance(sizes, tuple | list) and len(sizes) == 2
        if not two or dim not in (-1, x.ndim - 1) or (of_heads and x.ndim != 4):
            return PASS
        call.state["splits"] = call.state.get("splits", 0) + 1
        if number not in (None, call.state["splits"]):
            return PASS
        call.hits.add(word.format(list(sizes)), right.format(list(sizes)))
        return other(x, sizes)

    return watching(change)


def _reversed(x: Any, sizes: Any) -> Any:
    second, first = x.split(sizes[::-1], -1)
    return first, second


def _before_heads(x: Any, sizes: Any) -> Any:
    """Of all heads together the first parts stand first, not of each."""
    heads = x.shape[1]
    parts = x.transpose(1, 2).flatten(2).split([heads * size for size in sizes], -1)
    return tuple(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)


def _mutations(name: str, summary: str, words: tuple[str, str], other: Any, of_heads: bool) -> list[Mutation]:
    """One for each of the splits, and one for all of them."""
    which = {"": None, "-first": 1, "-second": 2, **({} if of_heads else {"-third": 3})}
    return [
        Mutation(f"{name}{end}", summary, "order of parts", uses("split", "split_with_sizes"),
                 split(*words, other, of_heads=of_heads, number=number),
                 family="attention", on=("attention-latent",))
        for end, number in which.items()
    ]  # fmt: skip


SPLIT_PARTS = [
    *_mutations("parts-reversed", "features are split into two parts in the opposite order",
                ("the second part of {} stands first", "the first part of {} stands first"), _reversed, False),
    *_mutations("parts-before-heads", "features are split into two parts before they are split into heads",
                ("{} of all heads together", "{} of each head"), _before_heads, True),
]  # fmt: skip
