"""Mutations of attention: of its scale, queries and keys, heads and softmax. Those of masks are in `masks`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import is_attention
from jax_attn.parity.mutations.injection import Forward, watching
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points, heads_apart


def attention_mutation(name: str, summary: str, setting: str, points: Points, **more: Any) -> Mutation:
    """A mutation at the points of attention."""
    return Mutation(name, summary, setting, is_attention, watching(points), family="attention", **more)


def scaled(word: str, factor: Callable[[int, int], float]) -> Points:
    """Scores times `factor(heads, head_dim)`; `word` is for those that torch divides by sqrt(head_dim)."""

    def scores(forward: Forward, chain: Chain, product: Any) -> Any:
        apart = heads_apart(forward, chain.queries)
        times = factor(1 if apart is None else apart.shape[-3], chain.queries.shape[-1])
        if times == 1.0:
            return product
        if _by_root_of_width(chain, product):
            forward.hits.add(word, "scores / sqrt(head_dim)")
        else:  # queries may be scaled before, or nothing may, as in T5
            forward.hits.add(f"torch's scores times {times:.4g}", "torch's scores")
        return product * times

    return Points(scores=scores)


def _by_root_of_width(chain: Chain, product: Any) -> bool:
    """Whether the product of queries and keys, once it is there, is divided by sqrt(head_dim)."""
    import torch

    once, twice = (chain.replay(times * product, hiding=False) for times in (1, 2))
    expected = chain.back(product) * chain.queries.shape[-1] ** -0.5
    return once.shape == expected.shape and torch.allclose(twice - once, expected)


def swapped(forward: Forward, chain: Chain, product: Any) -> Any:
    """Keys by queries."""
    if product.shape[-1] != product.shape[-2]:
        return product
    forward.hits.add("k qᵀ", "q kᵀ")
    return product.mT


def values_for_keys(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
    """Queries meet the values, and the weights mix the keys."""
    if chain.keys.mT.shape != values.shape:
        return weights @ values
    forward.hits.add("softmax(q vᵀ) k", "softmax(q kᵀ) v")
    return chain.replay(chain.queries @ values.mT) @ chain.keys.mT


# Heads, as `(b, n, t, h)`.

Change = Callable[[Any], Any | None]
"""Of `(b, n, t, h)`: other heads in the same shape; None where it does not apply."""


def heads_changed(wrong: str, right: str, two: str = "", **changes: Change) -> Points:
    """The heads of `q`, `k` and `v` changed, each by the change of its name; `two` says it of but two heads."""

    def changed(forward: Forward, name: str, x: Any) -> Any:
        apart = heads_apart(forward, x) if name in changes else None
        other = None if apart is None else changes[name](apart)
        if other is None:
            return x
        forward.hits.add(two if two and other.shape[-3] == 2 else wrong, right)
        return other.reshape(x.shape)

    def scores(forward: Forward, chain: Chain, product: Any) -> Any:
        return changed(forward, "q", chain.queries) @ changed(forward, "k", chain.keys.mT).mT

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        return weights @ changed(forward, "v", values)

    return Points(scores=scores if changes.keys() - {"v"} else None, mix=mix if "v" in changes else None)


def _flipped(x: Any) -> Any:
    return x.flip(-3)


def _rolled(by: int) -> Change:
    return lambda x: x.roll(by, -3)


def interleaved(x: Any) -> Any:
    """Heads of neighbouring features as heads of every n-th feature."""
    heads, width = x.shape[-3], x.shape[-1]
    together = x.transpose(-3, -2).flatten(-2)
    return together.unflatten(-1, (width, heads)).movedim(-1, -3)


def not_moved(x: Any) -> Any:
    """Heads taken from `(b, t, n h)` by a reshape to `(b, n, t, h)`, without moving an axis."""
    return x.transpose(-3, -2).reshape(x.shape)


def joined_as_they_are(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
    """The context `(b, n, t, h)` becomes `(b, t, n h)` by a reshape, without moving an axis."""
    context = weights @ values
    apart = heads_apart(forward, context)
    if apart is None:
        return context
    forward.hits.add("joined by a reshape of (b, n, t, h)", "moved to (b, t, n, h) first")
    b, n, t, h = apart.shape
    return apart.reshape(b, t, n, h).transpose(1, 2).reshape(context.shape)


def counted(other: Callable[[int], int]) -> Points:
    """`other(heads)` in place of as many heads as there are, from the same projections."""

    def again(x: Any, heads: int) -> Any:
        """`(b, n, t, h)` with another number of heads."""
        return x.transpose(-3, -2).flatten(-2).unflatten(-1, (heads, -1)).transpose(-3, -2)

    def wanted(x: Any) -> int | None:
        """The number of heads; None where there are not so many."""
        heads = other(x.shape[-3])
        return None if heads < 1 or heads == x.shape[-3] or (x.shape[-3] * x.shape[-1]) % heads else heads

    def scores(forward: Forward, chain: Chain, product: Any) -> Any:
        q, k = heads_apart(forward, chain.queries), heads_apart(forward, chain.keys.mT)
        heads = None if q is None or k is None or q.shape[-3] != k.shape[-3] else wanted(q)
        if q is None or k is None or heads is None:
            return product
        before = q.shape[-3]
        forward.hits.add(f"{heads} heads", f"{before} heads")
        found = again(q, heads) @ again(k, heads).mT * (heads / before) ** 0.5
        if before % heads == 0:  # heads that become one have the same weights each
            return found.repeat_interleave(before // heads, -3).reshape(product.shape)
        return found.flatten(0, 1) if chain.queries.ndim == 3 else found

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        v = heads_apart(forward, values)
        heads = None if v is None else wanted(v)
        if v is None or heads is None or v.shape[-3] % heads == 0:
            return weights @ values
        context = weights.reshape(*v.shape[:-3], heads, *weights.shape[-2:]) @ again(v, heads)
        return again(context, v.shape[-3]).reshape(*values.shape[:-2], *context.shape[-2:-1], -1)

    return Points(scores=scores, mix=mix)


def shared_otherwise(x: Any) -> Any | None:
    """Key or value heads that several query heads share: each in turn for each in a row, or the reverse."""
    import torch

    heads = x.shape[-3]
    for groups in range(2, heads):
        if heads % groups:
            continue
        in_a_row, in_turn = x.unflatten(-3, (groups, -1)), x.unflatten(-3, (-1, groups))
        if torch.equal(in_a_row, in_a_row[..., :1, :, :].expand_as(in_a_row)):
            return in_a_row.transpose(-4, -3).flatten(-4, -3)
        if torch.equal(in_turn, in_turn[..., :1, :, :, :].expand_as(in_turn)):
            return in_turn.transpose(-4, -3).flatten(-4, -3)
    return None


def heads_mutation(heads: int) -> Mutation:
    """So many heads."""
    return attention_mutation(f"heads-{heads}", f"{heads} heads", "heads", counted(lambda n: heads))


# The softmax.


def softmax(wrong: str, right: str, other: Callable[[Any, int], Any]) -> Points:
    """`other(scores, dim)` for the softmax; `{}` in `right` stands for the dtype of the scores."""

    def soft(forward: Forward, chain: Chain | None, scores: Any, dim: int) -> Any:
        forward.hits.add(wrong, right.format(str(scores.dtype).removeprefix("torch.")))
        return other(scores, dim)

    return Points(soft=soft)


def softmax_in(name: str) -> Points:
    """Softmax in a dtype of 16 bits, each step of it, as in JAX; torch's own rounds at the end alone."""

    def other(scores: Any, dim: int) -> Any:
        import torch

        narrow = scores.to(getattr(torch, name))
        powers = (narrow - narrow.amax(dim, keepdim=True)).exp()
        return (powers / powers.sum(dim, keepdim=True)).to(scores.dtype)

    return softmax(f"softmax in {name}", "softmax in {}", other)


def _over_queries(scores: Any, dim: int) -> Any:
    return scores.softmax(-2 if dim in (-1, scores.ndim - 1) else -1)


def _with_one_to_spare(scores: Any, dim: int) -> Any:
    """One more key of score 0."""
    import torch

    more = torch.cat([scores, torch.zeros_like(scores.narrow(dim, 0, 1))], dim)
    return more.softmax(dim).narrow(dim, 0, scores.shape[dim])


MASKED, DECODER = ("attention-masked",), ("decoder layer",)
ORDER, OPPOSITE = "in the order of k's", "heads of {} in the opposite order"

_scale = partial(attention_mutation, setting="scale")
_heads = partial(attention_mutation, setting="heads")

ATTENTION = [
    _scale("scale-missing", "scores are not divided by sqrt(head_dim)", on=("attention-masked", "sdpa"),
           points=scaled("scores as they are", lambda heads, width: width**0.5)),
    _scale("scale-twice", "scores divided by head_dim: the scale is applied twice", on=MASKED,
           points=scaled("scores / head_dim", lambda heads, width: width**-0.5)),
    _scale("scale-by-width", "scores divided by sqrt(embed_dim), all heads' width", on=MASKED,
           points=scaled("scores / sqrt(embed_dim)", lambda heads, width: heads**-0.5)),
    attention_mutation("swapped-qk", "queries and keys are swapped", "queries and keys",
                       Points(scores=swapped), on=MASKED),
    attention_mutation("swapped-kv", "keys and values are swapped", "keys and values",
                       Points(mix=values_for_keys), on=MASKED),
    _heads("heads-order", "heads of the queries in another order than those of the keys", on=MASKED,
           points=heads_changed(OPPOSITE.format("q"), ORDER, q=_flipped)),
    _heads("heads-rolled", "heads of the queries are one on from those of the keys", on=MASKED,
           points=heads_changed("heads of q one on", ORDER, OPPOSITE.format("q"), q=_rolled(1))),
    _heads("heads-rolled-back", "heads of the queries are one behind those of the keys", on=MASKED,
           points=heads_changed("heads of q one behind", ORDER, OPPOSITE.format("q"), q=_rolled(-1))),
    _heads("values-order", "heads of the values in another order than those of the keys", on=MASKED,
           points=heads_changed(OPPOSITE.format("v"), ORDER, v=_flipped)),
    _heads("values-rolled", "heads of the values are one on from those of the keys", on=MASKED,
           points=heads_changed("heads of v one on", ORDER, OPPOSITE.format("v"), v=_rolled(1))),
    _heads("values-rolled-back", "heads of the values are one behind those of the keys", on=MASKED,
           points=heads_changed("heads of v one behind", ORDER, OPPOSITE.format("v"), v=_rolled(-1))),
    _heads("heads-interleaved", "the width is split into heads by every n-th feature",
           points=heads_changed("a head is every n-th feature", "a head is neighbouring features",
                                q=interleaved, k=interleaved, v=interleaved), on=("attention-masked", "sdpa")),
    _heads("heads-not-split", "the width is split into heads by a reshape to (b, n, t, h)",
           points=heads_changed("split by a reshape to (b, n, t, h)", "split to (b, t, n, h), then moved",
                                q=not_moved, k=not_moved, v=not_moved), on=MASKED),
    _heads("heads-not-joined", "heads are joined by a reshape, without moving an axis",
           points=Points(mix=joined_as_they_are), on=MASKED),
    _heads("heads-shared", "query heads share key heads in turn, not in a row, or reversed",
           points=heads_changed("query heads share a key head in another order", "in torch's order",
                                k=shared_otherwise, v=shared_otherwise), on=(*DECODER, "attention-grouped")),
    _heads("heads-halved", "half as many heads, each twice as wide",
           points=counted(lambda heads: heads // 2 if heads % 2 == 0 else heads), on=DECODER),
    _heads("heads-doubled", "twice as many heads, each half as wide",
           points=counted(lambda heads: 2 * heads), on=DECODER),
    attention_mutation("softmax-bfloat16", "softmax in bfloat16", "precision", softmax_in("bfloat16"), on=DECODER),
    attention_mutation("softmax-float16", "softmax in float16", "precision", softmax_in("float16"), on=DECODER),
    attention_mutation("softmax-axis", "softmax over the queries", "softmax",
                       softmax("softmax over the queries", "softmax over the keys", _over_queries),
                       on=("attention-masked", "torch-multihead-padding")),
    attention_mutation("softmax-plus-one", "softmax with 1 added to its sum", "softmax",
                       softmax("softmax with 1 added to the sum", "softmax", _with_one_to_spare), on=MASKED),
]  # fmt: skip
