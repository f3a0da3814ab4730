"""Mutations of masks. Whatever hides scores is one mask: the mutation takes its place at the softmax."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.attention import attention_mutation
from jax_attn.parity.mutations.injection import PASS, Forward
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points, lowest

Other = Callable[[Any], Any | None]
"""Of the hidden scores, `(..., t, s)`: which are hidden with the mutation; None where it does not apply."""


def at_mask(change: Callable[[Forward, Any, Any, Any, Any], Any], **more: Any) -> Points:
    """`change(forward, scores, plain, hidden, dim)` gives the weights where `hidden` of the `plain` scores are."""

    def soft(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
        if chain is None or chain.hidden is None:
            return PASS
        plain = chain.plain
        return change(forward, scores, plain, chain.hidden.expand(plain.shape), dim)

    return Points(soft=soft, own_masks=True, **more)


def hidden_otherwise(wrong: str, right: str, other: Other, empty_row: str = "zero") -> Points:
    """`other(hidden)` is hidden; a row that then sees nothing is "zero", the "mean", or sees "itself"."""

    def change(forward: Forward, scores: Any, plain: Any, given: Any, dim: Any) -> Any:
        hidden = other(given)
        if hidden is None or bool((hidden == given).all()):
            return PASS
        forward.hits.add(wrong, right)
        if empty_row == "itself":
            hidden = hidden & ~(hidden.all(-1, keepdim=True) & _diagonal(hidden))
        weights = lowest(plain, hidden).softmax(dim)
        return weights if empty_row == "mean" else weights.masked_fill(hidden, 0.0)

    return at_mask(change)


def _diagonal(hidden: Any) -> Any:
    import torch

    return torch.eye(*hidden.shape[-2:], dtype=torch.bool, device=hidden.device)


def _after(scores: Any) -> Any:
    """All keys after the query, `(t, s)`."""
    import torch

    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)


def _if_square(change: Callable[[Any], Any]) -> Other:
    """The change of a mask of as many queries as keys."""
    return lambda hidden: change(hidden) if hidden.shape[-1] == hidden.shape[-2] else None


def _one_key_more(hidden: Any) -> Any:
    first = hidden.clone()
    first[..., 1:] = False
    return hidden & hidden.roll(1, -1) | first


def _of_causal(change: Callable[[Any, Any], Any]) -> Other:
    """`change(future, padding)` of a mask that is causal, and hides some keys from every query too."""

    def other(hidden: Any) -> Any | None:
        future = _after(hidden)
        if not ((hidden | ~future).all() and future.any() and (hidden & ~future).any()):
            return None
        padding = (hidden | future).all(-2, keepdim=True)
        return change(future.expand_as(hidden), padding.expand_as(hidden))

    return other


def _of_window(by: int) -> Mutation:
    """A window is one longer, or one shorter; what is padding to all queries stays so."""

    def size(hidden: Any) -> int | None:
        far = _apart(hidden).masked_fill(hidden, -1).max().item()
        return far + 1 if 0 < far < min(hidden.shape[-2:]) - 1 else None

    def other(hidden: Any) -> Any | None:
        window = size(hidden) if hidden.shape[-1] == hidden.shape[-2] else None
        if window is None:
            return None
        if by < 0:
            return hidden | (_apart(hidden) == window - 1)
        ends = _apart(hidden) == window
        if (hidden | (_after(hidden) == 0)).all():  # causal
            ends = ends & ~_after(hidden)
        seen = ~hidden.all(-2, keepdim=True) & ~hidden.all(-1, keepdim=True)
        return hidden & ~(ends & seen)

    def change(forward: Forward, scores: Any, plain: Any, given: Any, dim: Any) -> Any:
        hidden, window = other(given), size(given)
        if hidden is None or window is None or bool((hidden == given).all()):
            return PASS
        forward.hits.add(f"{window + by} tokens", f"{window} tokens")
        return lowest(plain, hidden).softmax(dim).masked_fill(hidden, 0.0)

    name, word = ("window-one-more", "longer") if by > 0 else ("window-one-less", "shorter")
    return attention_mutation(
        name, f"the window is one token {word}", "window", at_mask(change), on=("attention-window",)
    )


def _apart(scores: Any) -> Any:
    """How far keys are from queries, `(t, s)`."""
    import torch

    query, key = (torch.arange(n, device=scores.device) for n in scores.shape[-2:])
    return (key - query[:, None]).abs().expand(scores.shape)


def _ignored(forward: Forward, scores: Any, plain: Any, hidden: Any, dim: Any) -> Any:
    forward.hits.add("no mask", "a mask")
    return plain.softmax(dim)


def _added(amount: float) -> Points:
    """A number is added where -inf should be."""

    def change(forward: Forward, scores: Any, plain: Any, hidden: Any, dim: Any) -> Any:
        forward.hits.add(f"{amount:g} is added to masked scores", "-inf is put there")
        return (plain + hidden.to(scores.dtype) * amount).softmax(dim)

    return at_mask(change)


ZERO, MEAN, NAN = "0", "the mean of all values, as of a finite fill", "NaN, as of -inf"


def _empty_row(word: str) -> Points:
    """A row that sees nothing gives 0 or the mean of all values, in place of whatever it gives."""

    def change(forward: Forward, scores: Any, plain: Any, hidden: Any, dim: Any) -> Any:
        if not hidden.all(-1).any():
            return PASS
        forward.state["was"] = NAN if scores.softmax(dim).isnan().any() else MEAN
        weights = lowest(plain, hidden).softmax(dim)
        return weights.masked_fill(hidden, 0.0) if word == ZERO else weights

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        was, filled = (forward.state.pop(name, None) for name in ("was", "filled"))
        right = ZERO if filled else was  # weights were set to 0 after the softmax
        if was is not None and right != word:
            forward.hits.add(word, right)
        return weights @ values

    return at_mask(change, mix=mix)


def _empty_row_gradient(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
    """In a row that sees nothing, scores get a gradient where a fill stops it, and none where a sum passes it."""
    if chain is None or chain.hidden is None:
        return PASS
    empty = chain.hidden.expand(scores.shape).all(-1, keepdim=True)
    if not empty.any() or scores.softmax(dim).isnan().any():
        return PASS
    filled = any(step.hides and step.bare is None for step in chain.steps)
    words = "none, as where scores are replaced", "some, as where a mask is added"
    forward.hits.add(*(words[::-1] if filled else words))
    plain = chain.plain
    passed = scores + (plain - plain.detach())
    return scores.where(~empty, passed if filled else scores.detach()).softmax(dim)


def _causal_too(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
    """The future is hidden as well."""
    if chain is None:
        return PASS
    plain = chain.plain
    future = _after(plain)
    hidden = future if chain.hidden is None else chain.hidden | future
    if plain.shape[-2] < 2 or (chain.hidden is not None and bool((hidden == chain.hidden).all())):
        return PASS
    forward.hits.add("causal", "not causal")
    hidden = hidden.expand(plain.shape)
    return lowest(plain, hidden).softmax(dim).masked_fill(hidden, 0.0)


EMPTY_ROWS = {
    "zero": ("", ""),
    "mean": ("-mean", ", and a row that then sees nothing is the mean of all values"),
    "itself": ("-itself", ", and a row that then sees nothing sees itself"),
}


def _each(
    name: str, summary: str, words: tuple[str, str], other: Other, *rows: str, on: tuple[str, ...]
) -> list[Mutation]:
    """The mutation, and once more for each other thing that may come of a row that sees nothing."""
    return [
        _mask(name + EMPTY_ROWS[row][0], summary + EMPTY_ROWS[row][1],
              hidden_otherwise(*words, other, row), on=on)
        for row in ("zero", *rows)
    ]  # fmt: skip


def _mask(name: str, summary: str, points: Points, **more: Any) -> Mutation:
    return attention_mutation(name, summary, "mask", points, **more)


EMPTY = "a row that sees nothing"
INVERTED = "True = masked", "True = attend"
MASKED, DECODER = ("attention-masked",), ("decoder layer",)

MASKS = [
    *_each("mask-inverted", "True = attend is taken for True = masked", INVERTED, lambda hidden: ~hidden,
           "mean", "itself", on=("encoder-layer-post", "attention-masked", "sdpa")),
    _mask("mask-missing", "the mask, causal or given, is not applied", at_mask(_ignored), on=MASKED),
    *_each("mask-one-more", "each query sees one key more", ("one key more is seen", "the mask's keys"),
           _one_key_more, on=("sdpa", "torch-multihead-padding")),
    *_each("mask-not-itself", "a token does not see itself",
           ("a token does not see itself", "a token sees itself"),
           _if_square(lambda hidden: hidden | _diagonal(hidden)), "mean", "itself", on=("sdpa",)),
    *_each("mask-transposed", "the mask's queries and keys are swapped",
           ("a query sees the keys that ought to see it", "the mask as it is"),
           _if_square(lambda hidden: hidden.mT), "mean", on=("sdpa",)),
    *_each("padding-missing", "of a causal mask and padding, the padding is not applied",
           ("causal alone", "causal and padding"), _of_causal(lambda future, padding: future), on=DECODER),
    *_each("causal-missing", "of a causal mask and padding, the causal mask is not applied",
           ("padding alone", "causal and padding"), _of_causal(lambda future, padding: padding), on=DECODER),
    *_each("padding-inverted", "padding's True = attend is taken for True = masked", INVERTED,
           _of_causal(lambda future, padding: future | ~padding), "mean", "itself", on=DECODER),
    *_each("padding-inverted-alone", "the same, and the causal mask is not applied",
           ("padding alone, True = masked", "causal and padding, True = attend"),
           _of_causal(lambda future, padding: ~padding), "mean", on=DECODER),
    *_each("causal-inverted", "of a causal mask and padding, the causal mask is inverted",
           ("causal inverted, and padding", "causal and padding"),
           _of_causal(lambda future, padding: ~future | padding), "mean", on=DECODER),
    _of_window(1),
    _of_window(-1),
    _mask("mask-adds-1e4", "-1e4 is added in place of -inf", _added(-1e4), on=MASKED),
    _mask("mask-adds-1e9", "-1e9 is added in place of -inf", _added(-1e9), on=MASKED),
    _mask("mask-causal", "attention that is not causal hides the future, cross-attention too",
          Points(soft=_causal_too, own_masks=True), on=("encoder-layer-post",)),
    attention_mutation("empty-row-mean", "a row that sees nothing gives the mean of all values", EMPTY,
                       _empty_row(MEAN), on=MASKED),
    attention_mutation("empty-row-zero", "a row that sees nothing gives 0", EMPTY, _empty_row(ZERO),
                       on=("tied head",)),
    attention_mutation("empty-row-gradient", "the scores of a row that sees nothing get a gradient, or none",
                       f"gradient of {EMPTY}", Points(soft=_empty_row_gradient), on=("tied head",)),
]  # fmt: skip
