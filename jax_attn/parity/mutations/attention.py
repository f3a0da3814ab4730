"""Mutations of attention: of its scale, queries and keys, heads and softmax. Those of masks are in `masks`."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.injection import Forward, Hits, is_attention, watch
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points, heads_apart


def scaled(word: str, factor: Callable[[int, int], float]) -> Points:
    """Scores times `factor(heads, head_dim)`."""

    def scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
        apart = heads_apart(forward, queries)
        heads = 1 if apart is None else apart.shape[-3]
        times = factor(heads, queries.shape[-1])
        if times == 1.0:
            return product
        forward.hits.add(word, "scores / sqrt(head_dim)")
        return product * times

    return Points(scores=scores)


def swapped(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
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


# Heads, as `(b, n, t, h)`. A change of them is `(forward, x)` to the same shape, or None.

Heads = Callable[[Any], Any]
TWO = "heads of {} in the opposite order"  # however two are turned


def of_queries(change: Heads, word: str, right: str) -> Points:
    """The heads of the queries, changed."""

    def scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
        apart = heads_apart(forward, queries)
        if apart is None:
            return product
        forward.hits.add(word if apart.shape[-3] > 2 else TWO.format("q"), right)
        return change(apart).reshape(queries.shape) @ keys

    return Points(scores=scores)


def of_values(change: Heads, word: str, right: str) -> Points:
    """The heads of the values, changed."""

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        apart = heads_apart(forward, values)
        if apart is None:
            return weights @ values
        forward.hits.add(word if apart.shape[-3] > 2 else TWO.format("v"), right)
        return weights @ change(apart).reshape(values.shape)

    return Points(mix=mix)


def interleaved(x: Any) -> Any:
    """Heads of neighbouring features as heads of every n-th feature."""
    heads, width = x.shape[-3], x.shape[-1]
    together = x.transpose(-3, -2).flatten(-2)
    return together.unflatten(-1, (width, heads)).movedim(-1, -3)


def not_moved(x: Any) -> Any:
    """Heads taken from `(b, t, n h)` by a reshape to `(b, n, t, h)`, without moving an axis."""
    return x.transpose(-3, -2).reshape(x.shape)


def split_otherwise(change: Heads, word: str, right: str) -> Points:
    """The width is split into heads in another way, of queries, keys and values."""

    def scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
        apart = heads_apart(forward, queries), heads_apart(forward, keys.mT)
        if apart[0] is None or apart[1] is None:
            return product
        forward.hits.add(word, right)
        return change(apart[0]).reshape(queries.shape) @ change(apart[1]).reshape(keys.mT.shape).mT

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        apart = heads_apart(forward, values)
        return weights @ (values if apart is None else change(apart).reshape(values.shape))

    return Points(scores=scores, mix=mix)


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

    def scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
        q, k = heads_apart(forward, queries), heads_apart(forward, keys.mT)
        heads = None if q is None or k is None or q.shape[-3] != k.shape[-3] else wanted(q)
        if q is None or k is None or heads is None:
            return product
        before = q.shape[-3]
        forward.hits.add(f"{heads} heads", f"{before} heads")
        found = again(q, heads) @ again(k, heads).mT * (heads / before) ** 0.5
        if before % heads == 0:  # heads that become one have the same weights each
            return found.repeat_interleave(before // heads, -3).reshape(product.shape)
        return found.flatten(0, 1) if queries.ndim == 3 else found

    def mix(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        v = heads_apart(forward, values)
        heads = None if v is None else wanted(v)
        if v is None or heads is None or v.shape[-3] % heads == 0:
            return weights @ values
        context = weights.reshape(*v.shape[:-3], heads, *weights.shape[-2:]) @ again(v, heads)
        return again(context, v.shape[-3]).reshape(*values.shape[:-2], *context.shape[-2:-1], -1)

    return Points(scores=scores, mix=mix)


def heads_mutation(heads: int) -> Mutation:
    """So many heads."""
    return attention_mutation(
        f"heads-{heads}", f"{heads} heads", HEADS, counted(lambda n: heads), pitfalls=(13,)
    )


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


def shared_scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
    """Key heads shared otherwise."""
    apart = heads_apart(forward, keys.mT)
    other = None if apart is None else shared_otherwise(apart)
    if other is None:
        return product
    forward.hits.add("query heads share a key head in another order", "in torch's order")
    return queries @ other.reshape(keys.mT.shape).mT


def shared_values(forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
    """Value heads shared otherwise."""
    apart = heads_apart(forward, values)
    other = None if apart is None else shared_otherwise(apart)
    return weights @ (values if other is None else other.reshape(values.shape))


# The softmax.


def wrong_axis(forward: Forward, chain: Any, scores: Any, dim: Any) -> Any:
    """Softmax over the queries."""
    forward.hits.add("softmax over the queries", "softmax over the keys")
    return scores.softmax(-2 if dim in (-1, scores.ndim - 1) else -1)


def softmax_in(name: str) -> Points:
    """Softmax in a dtype of 16 bits, each step of it, as in JAX; torch's own rounds at the end alone."""

    def soft(forward: Forward, chain: Any, scores: Any, dim: Any) -> Any:
        import torch

        forward.hits.add(f"softmax in {name}", f"softmax in {str(scores.dtype).removeprefix('torch.')}")
        narrow = scores.to(getattr(torch, name))
        powers = (narrow - narrow.amax(dim, keepdim=True)).exp()
        return (powers / powers.sum(dim, keepdim=True)).to(scores.dtype)

    return Points(soft=soft)


def one_to_spare(forward: Forward, chain: Any, scores: Any, dim: Any) -> Any:
    """A softmax with one more key of score 0."""
    import torch

    forward.hits.add("softmax with 1 added to the sum", "softmax")
    return (
        torch.cat([scores, torch.zeros_like(scores.narrow(dim, 0, 1))], dim)
        .softmax(dim)
        .narrow(dim, 0, scores.shape[dim])
    )


def attention_mutation(
    name: str,
    summary: str,
    setting: str,
    points: Points,
    **more: Any,
) -> Mutation:
    """A mutation at the points of attention."""

    def injector(module: Any, hits: Hits) -> None:
        watch(module, points, hits)

    return Mutation(name, summary, setting, is_attention, injector, family="attention", **more)


SCALE, HEADS = "scale", "heads"
ORDER = "in the order of k's"


def _rolled(by: int) -> Heads:
    return lambda x: x.roll(by, -3)


ATTENTION = [
    attention_mutation("scale-missing", "scores are not divided by sqrt(head_dim)", SCALE,
                    scaled("scores as they are", lambda heads, width: width**0.5), pitfalls=(26,),
                    on=("attention-masked", "sdpa")),
    attention_mutation("scale-twice", "scores divided by head_dim: the scale is applied twice", SCALE,
                    scaled("scores / head_dim", lambda heads, width: width**-0.5), pitfalls=(26,),
                    on=("attention-masked",)),
    attention_mutation("scale-by-width", "scores divided by sqrt(embed_dim), all heads' width", SCALE,
                    scaled("scores / sqrt(embed_dim)", lambda heads, width: heads**-0.5), pitfalls=(26,),
                    on=("attention-masked",)),
    attention_mutation("swapped-qk", "queries and keys are swapped", "queries and keys",
                    Points(scores=swapped), pitfalls=(13,), on=("attention-masked",)),
    attention_mutation("swapped-kv", "keys and values are swapped", "keys and values",
                    Points(mix=values_for_keys), pitfalls=(13,), on=("attention-masked",)),
    attention_mutation("heads-order", "heads of the queries in another order than those of the keys", HEADS,
                    of_queries(lambda x: x.flip(-3), TWO.format("q"), ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("heads-rolled", "heads of the queries are one on from those of the keys", HEADS,
                    of_queries(_rolled(1), "heads of q one on", ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("heads-rolled-back", "heads of the queries are one behind those of the keys", HEADS,
                    of_queries(_rolled(-1), "heads of q one behind", ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("values-order", "heads of the values in another order than those of the keys", HEADS,
                    of_values(lambda x: x.flip(-3), TWO.format("v"), ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("values-rolled", "heads of the values are one on from those of the keys", HEADS,
                    of_values(_rolled(1), "heads of v one on", ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("values-rolled-back", "heads of the values are one behind those of the keys", HEADS,
                    of_values(_rolled(-1), "heads of v one behind", ORDER), pitfalls=(13,),
                    on=("attention-masked",)),
    attention_mutation("heads-interleaved", "the width is split into heads by every n-th feature", HEADS,
                    split_otherwise(interleaved, "a head is every n-th feature",
                                    "a head is neighbouring features"), pitfalls=(13, 20),
                    on=("attention-masked", "sdpa")),
    attention_mutation("heads-not-split", "the width is split into heads by a reshape to (b, n, t, h)", HEADS,
                    split_otherwise(not_moved, "split by a reshape to (b, n, t, h)",
                                    "split to (b, t, n, h), then moved"), pitfalls=(20,),
                    on=("attention-masked",)),
    attention_mutation("heads-not-joined", "heads are joined by a reshape, without moving an axis", HEADS,
                    Points(mix=joined_as_they_are), pitfalls=(20,), on=("attention-masked",)),
    attention_mutation("heads-shared", "query heads share key heads in turn, not in a row, or reversed", HEADS,
                    Points(scores=shared_scores, mix=shared_values), pitfalls=(13,), on=("decoder layer",)),
    attention_mutation("heads-halved", "half as many heads, each twice as wide", HEADS,
                    counted(lambda heads: heads // 2 if heads % 2 == 0 else heads), pitfalls=(13,),
                    on=("decoder layer",)),
    attention_mutation("heads-doubled", "twice as many heads, each half as wide", HEADS,
                    counted(lambda heads: 2 * heads), pitfalls=(13,), on=("decoder layer",)),
    attention_mutation("softmax-bfloat16", "softmax in bfloat16", "precision", softmax_in("bfloat16"),
                    pitfalls=(21,), on=("decoder layer",)),
    attention_mutation("softmax-float16", "softmax in float16", "precision", softmax_in("float16"),
                    pitfalls=(21,), on=("decoder layer",)),
    attention_mutation("softmax-axis", "softmax over the queries", "softmax", Points(soft=wrong_axis),
                    on=("attention-masked", "torch-multihead-padding")),
    attention_mutation("softmax-plus-one", "softmax with 1 added to its sum", "softmax",
                    Points(soft=one_to_spare), on=("attention-masked",)),
]  # fmt: skip
