"""Mutations of masks. Whatever hides scores is one mask: the mutation takes its place at the softmax."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.attention import attention_mutation
from jax_attn.parity.mutations.injection import PASS, Forward
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points, lowest

Other = Callable[[Any], Any | None]
"""Of the hidden scores, `(..., t, s)`: which are hidden with the mutation; None where it does not apply."""


def hidden_otherwise(faulty: str, right: str, other: Other, empty_row: str = "zero") -> Points:
    """`other(hidden)` is hidden; a row that then sees nothing is "zero", the "mean", or sees "itself"."""

    def soft(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
        if chain is None or chain.hidden is None:
            return PASS
        plain = chain.plain
        given = chain.hidden.expand(plain.shape)
        hidden = other(given)
        if hidden is None or bool((hidden == given).all()):
            return PASS
        forward.hits.add(faulty, right)
        if empty_row == "itself":
            hidden = hidden & ~(hidden.all(-1, keepdim=True) & _diagonal(hidden))
        weights = lowest(plain, hidden).softmax(dim)
        return weights if empty_row == "mean" else weights.masked_fill(hidden, 0.0)

    return Points(soft=soft, own_masks=True)


def _diagonal(hidden: Any) -> Any:
    import torch

    return torch.eye(*hidden.shape[-2:], dtype=torch.bool, device=hidden.device)


def _future(hidden: Any) -> Any | None:
    """The causal part of a mask that has one: all keys after the query; None if it has none."""
    import torch

    future = torch.ones(hidden.shape[-2:], dtype=torch.bool, device=hidden.device).triu(1)
    return future.expand_as(hidden) if (hidden | ~future).all() and future.any() else None


def _padding(hidden: Any) -> Any | None:
    """The keys that a causal mask hides from every query; None if there are none, or it is not causal."""
    future = _future(hidden)
    if future is None:
        return None
    padding = (hidden | future).all(-2, keepdim=True).expand_as(hidden)
    return padding if (hidden & ~future).any() else None


def without_itself(hidden: Any) -> Any | None:
    """The mask, and the token itself."""
    return hidden | _diagonal(hidden) if hidden.shape[-1] == hidden.shape[-2] else None


def one_key_more(hidden: Any) -> Any:
    """The mask, a key off."""
    first = hidden.clone()
    first[..., 1:] = False
    return hidden & hidden.roll(1, -1) | first


def transposed(hidden: Any) -> Any | None:
    """Queries for keys."""
    return hidden.mT if hidden.shape[-1] == hidden.shape[-2] else None


def without_padding(hidden: Any) -> Any | None:
    """The causal part alone."""
    return None if _padding(hidden) is None else _future(hidden)


def without_causal(hidden: Any) -> Any | None:
    """The padding alone."""
    return _padding(hidden)


def padding_inverted(hidden: Any) -> Any | None:
    """The causal part, and what is no padding."""
    padding = _padding(hidden)
    return None if padding is None else _future(hidden) | ~padding


def only_padding_inverted(hidden: Any) -> Any | None:
    """What is no padding, without the causal part."""
    padding = _padding(hidden)
    return None if padding is None else ~padding


def causal_inverted(hidden: Any) -> Any | None:
    """The causal part inverted, and the padding."""
    padding, future = _padding(hidden), _future(hidden)
    return None if padding is None or future is None else ~future | padding


def ignored(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
    """No mask."""
    if chain is None or chain.hidden is None:
        return PASS
    forward.hits.add("no mask", "a mask")
    return chain.plain.softmax(dim)


def added(amount: float) -> Callable[..., Any]:
    """A number is added where -inf should be."""

    def soft(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
        if chain is None or chain.hidden is None:
            return PASS
        forward.hits.add(f"{amount:g} is added to masked scores", "-inf is put there")
        return (chain.plain + chain.hidden.to(scores.dtype) * amount).softmax(dim)

    return soft


ZERO, MEAN, NAN = "0", "the mean of all values, as of a finite fill", "NaN, as of -inf"


def empty_row(word: str) -> Points:
    """A row that sees nothing gives 0 or the mean of all values, in place of whatever it gives."""

    def soft(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
        if chain is None or chain.hidden is None:
            return PASS
        plain = chain.plain
        hidden = chain.hidden.expand(plain.shape)
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

    return Points(soft=soft, mix=mix, own_masks=True)


def causal_too(forward: Forward, chain: Chain | None, scores: Any, dim: Any) -> Any:
    """The future is hidden as well."""
    import torch

    if chain is None:
        return PASS
    plain = chain.plain
    future = torch.ones(plain.shape[-2:], dtype=torch.bool, device=plain.device).triu(1)
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
    name: str,
    summary: str,
    words: tuple[str, str],
    other: Other,
    *,
    pitfalls: tuple[int, ...],
    on: tuple[str, ...],
    empty: tuple[str, ...] = (),
) -> list[Mutation]:
    """The mutation, once for each thing that may come of a row that sees nothing."""
    return [
        attention_mutation(name + suffix, summary + more, "mask", hidden_otherwise(*words, other, row),
                        pitfalls=pitfalls if row == "zero" else (*pitfalls, 19), on=on)
        for row, (suffix, more) in EMPTY_ROWS.items()
        if row == "zero" or row in empty
    ]  # fmt: skip


def _mask_mutation(name: str, summary: str, soft: Callable[..., Any], **more: Any) -> Mutation:
    return attention_mutation(name, summary, "mask", Points(soft=soft, own_masks=True), **more)


EMPTY = "a row that sees nothing"
INVERTED = "True = masked", "True = attend"

MASKS = [
    *_each("mask-inverted", "True = attend is taken for True = masked", INVERTED,
           lambda hidden: ~hidden, pitfalls=(18,), empty=("mean", "itself"),
           on=("encoder-layer-post", "attention-masked", "sdpa")),
    _mask_mutation("mask-missing", "the mask, causal or given, is not applied", ignored, pitfalls=(18,),
           on=("attention-masked",)),
    *_each("mask-one-more", "each query sees one key more", ("one key more is seen", "the mask's keys"),
           one_key_more, pitfalls=(25,), on=("sdpa", "torch-multihead-padding")),
    *_each("mask-not-itself", "a token does not see itself",
           ("a token does not see itself", "a token sees itself"), without_itself, pitfalls=(25,),
           empty=("mean", "itself"), on=("sdpa",)),
    *_each("mask-transposed", "the mask's queries and keys are swapped",
           ("a query sees the keys that ought to see it", "the mask as it is"), transposed, pitfalls=(18,),
           empty=("mean",), on=("sdpa",)),
    *_each("padding-missing", "of a causal mask and padding, the padding is not applied",
           ("causal alone", "causal and padding"), without_padding, pitfalls=(18,), on=("decoder layer",)),
    *_each("causal-missing", "of a causal mask and padding, the causal mask is not applied",
           ("padding alone", "causal and padding"), without_causal, pitfalls=(18,), on=("decoder layer",)),
    *_each("padding-inverted", "padding's True = attend is taken for True = masked", INVERTED,
           padding_inverted, pitfalls=(18,), empty=("mean", "itself"), on=("decoder layer",)),
    *_each("padding-inverted-alone", "the same, and the causal mask is not applied",
           ("padding alone, True = masked", "causal and padding, True = attend"), only_padding_inverted,
           pitfalls=(18,), empty=("mean",), on=("decoder layer",)),
    *_each("causal-inverted", "of a causal mask and padding, the causal mask is inverted",
           ("causal inverted, and padding", "causal and padding"), causal_inverted, pitfalls=(18,), empty=("mean",),
           on=("decoder layer",)),
    _mask_mutation("mask-adds-1e4", "-1e4 is added in place of -inf", added(-1e4), pitfalls=(19,),
           on=("attention-masked",)),
    _mask_mutation("mask-adds-1e9", "-1e9 is added in place of -inf", added(-1e9), pitfalls=(19,),
           on=("attention-masked",)),
    _mask_mutation("mask-causal", "attention that is not causal hides the future, cross-attention too",
                   causal_too, pitfalls=(18,), on=("encoder-layer-post",)),
    attention_mutation("empty-row-mean", "a row that sees nothing gives the mean of all values", EMPTY,
                       empty_row(MEAN), pitfalls=(19,), on=("attention-masked",)),
    attention_mutation("empty-row-zero", "a row that sees nothing gives 0", EMPTY, empty_row(ZERO), pitfalls=(19,),
           on=("tied head",)),
]  # fmt: skip
