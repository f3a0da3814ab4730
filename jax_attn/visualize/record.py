"""What a picture of attention is drawn from: tokens, and the weights of every layer and head between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TokenAxis:
    """The tokens along one axis of the weights.

    Attributes:
        labels: what is written, one for each token.
        notes: what is said of a token when it is pointed at, such as its id; empty is nothing.
        segments: of which sentence of a pair each token is, 0 or 1; empty is one sentence.
        special: whether a token was added by the tokenizer or the model; empty is that none was.
        grid: (rows, columns) of an image whose patches the tokens are, row by row, but for the special ones.
    """

    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    segments: tuple[int, ...] = ()
    special: tuple[bool, ...] = ()
    grid: tuple[int, int] | None = None

    def __post_init__(self):
        for name in ("notes", "segments", "special"):
            given = getattr(self, name)
            if given and len(given) != len(self.labels):
                raise ValueError(
                    f"{name} must have one entry for each of {len(self)} labels, got {len(given)}"
                )
        if self.grid is not None and self.grid[0] * self.grid[1] != len(self) - sum(self.special):
            patches = len(self) - sum(self.special)
            raise ValueError(f"grid must be of the {patches} patches that are not special, got {self.grid}")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, tokens: "TokenAxis | Sequence[str] | None", length: int) -> "TokenAxis":
        """The axis itself, the labels as one, or the numbers from 0 where there are none."""
        if isinstance(tokens, TokenAxis):
            return tokens
        return cls(tuple(map(str, range(length) if tokens is None else tokens)))


@dataclass(frozen=True)
class AttentionLayer:
    """One call of one attention.

    Attributes:
        number: which layer of its stack it is, from 0.
        path: of the module.
        weights: `(N, T, S)`.
        query: `(N, T, H)`, times the scale, after norms and rotation; None where the scores are no product of both.
        key: `(N, S, H)`, likewise.
        other: `(N, T, S)`, the weights of the same attention in another framework; None is none.
    """

    number: int
    path: str
    weights: np.ndarray = field(repr=False)  # a notebook keeps the text of what it shows
    query: np.ndarray | None = field(default=None, repr=False)
    key: np.ndarray | None = field(default=None, repr=False)
    other: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.weights.ndim != 3:
            raise ValueError(f"weights must be (heads, queries, keys), got shape {self.weights.shape}")
        for name in ("weights", "query", "key", "other"):
            given = getattr(self, name)
            if given is not None and not np.isfinite(given).all():
                raise ValueError(
                    f"{name} of {self.path or 'the attention'} must be finite, and holds NaN or infinity"
                )
        if self.other is not None and self.other.shape != self.weights.shape:
            raise ValueError(
                f"other of {self.path or 'the attention'} must have the shape of weights, {self.weights.shape}, "
                f"got {self.other.shape}"
            )

    @property
    def apart(self) -> float:
        """The largest difference between the frameworks; 0 where there is one alone."""
        return 0.0 if self.other is None else float(np.abs(self.weights - self.other).max(initial=0.0))


@dataclass(frozen=True)
class AttentionStack:
    """Attentions of one kind, one behind the other, between the same tokens.

    Attributes:
        name: "encoder", "decoder", "cross" or where the modules stand.
        queries: the tokens that attend.
        keys: the tokens that are attended to.
        layers: all with the same number of heads.
        heads: the numbers of the heads.
    """

    name: str
    queries: TokenAxis
    keys: TokenAxis
    layers: tuple[AttentionLayer, ...]
    heads: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.layers:
            raise ValueError(f"{self.name} must have at least one layer")
        object.__setattr__(self, "heads", self.heads or tuple(range(len(self.layers[0].weights))))
        wanted = (len(self.heads), len(self.queries), len(self.keys))
        for layer in self.layers:
            if layer.weights.shape != wanted:
                raise ValueError(
                    f"weights of {layer.path or self.name} must be (heads, queries, keys) = {wanted} as its tokens "
                    f"are, got {layer.weights.shape}"
                )


@dataclass(frozen=True)
class AttentionRecord:
    """All that pictures of one call of a model are drawn from.

    Attributes:
        stacks: encoder, decoder, cross: those that there are.
        title: of the page.
        image: `(height, width, 3)`, bytes: what the patches are of; None without.
        other: the name of the other framework; "" without one.
    """

    stacks: tuple[AttentionStack, ...]
    title: str = "attention"
    image: np.ndarray | None = field(default=None, repr=False)
    other: str = ""

    def __post_init__(self):
        if not self.stacks:
            raise ValueError("a record needs at least one attention")

    @classmethod
    def from_weights(
        cls,
        weights: Any,
        tokens: TokenAxis | Sequence[str] | None = None,
        context_tokens: TokenAxis | Sequence[str] | None = None,
        title: str = "attention",
    ) -> "AttentionRecord":
        """The record of weights from anywhere.

        Args:
            weights: `(layers, heads, T, S)`, or a list of `(heads, T, S)`.
            tokens: those that attend; None numbers them.
            context_tokens: those that are attended to; None is the same.
            title: of the page.
        """
        layers = tuple(
            AttentionLayer(number, "", np.asarray(each, np.float32)) for number, each in enumerate(weights)
        )
        if not layers:
            raise ValueError("weights must have at least one layer")
        *_, queries, keys = layers[0].weights.shape
        name = "attention" if context_tokens is None else "cross"
        first = TokenAxis.of(tokens, queries)
        second = first if context_tokens is None and queries == keys else TokenAxis.of(context_tokens, keys)
        return cls((AttentionStack(name, first, second, layers),), title)

    def select(
        self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> "AttentionRecord":
        """The record of these layers and heads alone, under the numbers that they have.

        Raises:
            ValueError: no stack has one of them.
        """
        for name, wanted, there in (
            ("layers", layers, {layer.number for stack in self.stacks for layer in stack.layers}),
            ("heads", heads, {head for stack in self.stacks for head in stack.heads}),
        ):
            unknown = [number for number in wanted or () if number not in there]
            if unknown:
                raise ValueError(f"{name} must be from {min(there)} to {max(there)}, got {unknown[0]}")
        chosen = (_selected(stack, layers, heads) for stack in self.stacks)
        return replace(self, stacks=tuple(stack for stack in chosen if stack is not None))


def _selected(
    stack: AttentionStack, layers: Sequence[int] | None, heads: Sequence[int] | None
) -> AttentionStack | None:
    places = [place for place, head in enumerate(stack.heads) if heads is None or head in heads]
    kept = [layer for layer in stack.layers if layers is None or layer.number in layers]
    if not places or not kept:
        return None

    def of(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[places]

    cut = tuple(
        replace(
            layer,
            weights=layer.weights[places],
            query=of(layer.query),
            key=of(layer.key),
            other=of(layer.other),
        )
        for layer in kept
    )
    return replace(stack, layers=cut, heads=tuple(stack.heads[place] for place in places))
