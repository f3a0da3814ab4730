"""Mutations of what else happens to scores on their way to the softmax: soft-cap, sinks, biases of positions."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jax_attn.parity.mutations.activations import divides_by_number
from jax_attn.parity.mutations.calls import CONVOLVE, MULTIPLY, is_attention, uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import LOW, SUMS, Points

PLAIN = Points()
"""Follows scores, and changes nothing."""


def scores_before(call: TorchCall, value: Any) -> bool:
    """Whether a value is scores on their way to the softmax."""
    chains = call.state.get("chains", {})
    return id(value) in chains and not chains[id(value)][1].soft


# Soft-cap, of scores or of logits.


def uncapped(call: TorchCall) -> Any:
    """`x` for `c tanh(x / c)`."""
    divided, bent = (call.state.setdefault(name, {}) for name in ("divided", "bent"))
    args = call.args
    if divides_by_number(call):
        value = call.run()
        divided[id(value)] = value, args[0], float(args[1])
        return value
    if call.name in ("tanh", "tanh_") and id(args[0]) in divided:
        value = call.run()
        bent[id(value)] = value, *divided[id(args[0])][1:]
        return value
    if call.name in MULTIPLY and len(args) > 1:
        for value, number in (args[:2], args[1::-1]):
            if id(value) in bent and _is_number(number) and float(number) == bent[id(value)][2]:
                cap = f"{float(number):g}"
                call.hits.add("none", f"{cap} tanh(x / {cap})")
                return bent[id(value)][1] * 1
    return PASS


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Sinks: one more column of scores.


def sinks(word: str, instead: Callable[[Any], Any]) -> Injector:
    """`instead(column)` beside the scores."""

    def change(call: TorchCall) -> Any:
        parts = call.args[0] if call.name in ("cat", "concat", "concatenate") else ()
        if len(parts) != 2 or not scores_before(call, parts[0]) or parts[1].shape[-1] != 1:
            return PLAIN(call)
        call.hits.add(word, "a logit for each head beside the scores")
        return call.function([parts[0], instead(parts[1])], *call.args[1:], **call.kwargs)

    return watching(change)


def _nothing(column: Any) -> Any:
    """A logit that takes nothing; finite, for rows that see nothing but it."""
    import torch

    return torch.full_like(column, torch.finfo(column.dtype).min)


# Biases.


def unbiased(call: TorchCall) -> Any:
    """What is added to the scores, and hides none, is not added."""
    import torch

    convolved = Marks(call, "convolved")
    if call.name in CONVOLVE:
        return convolved.put(call.run(), True)
    if call.name in SUMS and len(call.args) > 1 and all(isinstance(a, torch.Tensor) for a in call.args[:2]):
        for scores, bias in (call.args[:2], call.args[1::-1]):
            if scores_before(call, bias) or convolved.of(bias):  # see `score_sums` and `nystrom`
                continue
            if scores_before(call, scores) and bias.ndim > 1 and bias.any() and not (bias < LOW).any():
                call.hits.add("nothing is added to the scores", "a bias is added to them")
                return PLAIN(replace(call, name="mul", function=lambda x: x * 1, args=(scores,)))
    return PLAIN(call)


def published_slopes(heads: int) -> list[float]:
    """ALiBi's: those of the last power of two, and between them some of the next."""
    power = 2 ** int(math.log2(heads))
    return [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)] + [
        2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)
    ]


def slopes(word: str, other: Callable[[int], list[float]]) -> Injector:
    """`other(heads)` in place of ALiBi's published slopes, which are known by their numbers."""

    def change(call: TorchCall) -> Any:
        if call.name not in MULTIPLY or len(call.args) < 2:
            return PASS
        args = [_with_slopes(arg, other) for arg in call.args[:2]]
        if all(arg is None for arg in args):
            return PASS
        call.hits.add(word, "as published")
        given = (old if new is None else new for old, new in zip(call.args, args, strict=True))
        return call.function(*given, **call.kwargs)

    return watching(change)


def _with_slopes(factor: Any, other: Callable[[int], list[float]]) -> Any | None:
    """Other slopes in the place of those; None if a factor is none of them."""
    import torch

    if not isinstance(factor, torch.Tensor) or not factor.is_floating_point() or not 2 < factor.numel() < 257:
        return None
    heads = factor.numel()
    published = factor.new_tensor(published_slopes(heads))
    if heads not in factor.shape or not torch.allclose(factor.flatten().abs(), published, rtol=1e-2, atol=0):
        return None
    others = factor.new_tensor(other(heads))
    if torch.equal(others, published):
        return None
    return (others * factor.flatten().sign()).reshape(factor.shape)


# Distances, as `(..., t, s)` integers, by which a table of biases is looked up.


class Distances:
    """`other(distance)` where a table or a wave is asked for by what comes of a key's place less a query's."""

    def __init__(self, words: tuple[str, str], other: Callable[[Any], Any]):
        self.words = words
        self.other = other

    def __call__(self, call: TorchCall) -> Any:
        """Remember what comes of distances, and make it again for others where it looks something up."""
        made = call.state.setdefault("of distances", {})
        if call.name in ("sub", "__sub__", "__rsub__", "subtract") and (sign := _direction(call.args)):
            value = call.run()
            made[id(value)] = value, lambda distance: sign * distance, sign * value
            return value
        sources = [
            made[id(value)][2] for value in _flat((*call.args, call.kwargs.values())) if id(value) in made
        ]
        if not sources:
            return PASS
        distance = sources[0]

        def again(distance: Any) -> Any:
            def renewed(value: Any) -> Any:
                if isinstance(value, tuple | list):
                    return type(value)(map(renewed, value))
                return made[id(value)][1](distance) if id(value) in made else value

            kwargs = {key: renewed(value) for key, value in call.kwargs.items()}
            return call.function(*map(renewed, call.args), **kwargs)

        if _looks_up(call):
            call.hits.add(*self.words)
            return again(self.other(distance))
        value = call.run()
        if hasattr(value, "dtype"):
            made[id(value)] = value, again, distance
        return value


def rounded(call: TorchCall) -> Any:
    """Up for down, and down for up, where a distance's logarithm becomes the number of its bucket."""
    x: Any = call.args[0] if call.args else None
    if call.name == "ceil":
        call.hits.add("down", "up")
        return x.floor()
    if call.name == "long" and x.is_floating_point() and (x != x.round()).any():
        call.hits.add("up", "down")
        return x.ceil().long()
    return PASS


def _flat(values: Any) -> list[Any]:
    return [
        part for value in values for part in (_flat(value) if isinstance(value, tuple | list) else [value])
    ]


def _looks_up(call: TorchCall) -> bool:
    if call.name in ("sin", "cos"):
        return True
    table = call.args[1 if call.name == "embedding" else 0] if len(call.args) > 1 else None
    return (
        call.name in ("embedding", "__getitem__", "index_select", "gather")
        and hasattr(table, "is_floating_point")
        and table.is_floating_point()
    )


def _direction(args: Any) -> int:
    """1 for keys `(..., s)` less queries `(..., t, 1)`, -1 for the reverse, 0 for anything else."""
    import torch

    if len(args) < 2 or not all(isinstance(a, torch.Tensor) and not a.is_floating_point() for a in args[:2]):
        return 0
    rows = [a.ndim > 1 and a.shape[-1] == 1 and a.shape[-2] > 1 for a in args[:2]]
    columns = [a.ndim > 0 and a.shape[-1] > 1 and (a.ndim == 1 or a.shape[-2] == 1) for a in args[:2]]
    return 1 if columns[0] and rows[1] else -1 if rows[0] and columns[1] else 0


def _mutation(name: str, summary: str, setting: str, fits: Any, injector: Injector, *on: str) -> Mutation:
    return Mutation(name, summary, setting, fits, injector, family="attention", on=on)


def _has_sinks(module: Any) -> bool:
    """Whether something may be put beside scores."""
    return is_attention(module) and uses("cat", "concat", "concatenate")(module)


def _has_distances(module: Any) -> bool:
    """Whether something is looked up, and something taken off something."""
    looks_up = uses("embedding", "Embedding", "__getitem__", "index_select", "gather", "sin")(module)
    return looks_up and uses("sub", "__sub__", "__rsub__", "subtract")(module)


DISTANT = "positions-t5", "attention-relative", "attention-disentangled"
DISTANCE = "the key's place less the query's"

SCORE_TERMS = [
    _mutation("softcap-missing", "scores or logits are not bounded by tanh", "soft-cap", uses("tanh"),
              watching(uncapped), "attention-softcap"),
    _mutation("sinks-missing", "no sink takes its share of the softmax", "sinks", _has_sinks,
              sinks("none", _nothing), "attention-sinks"),
    _mutation("sinks-zero", "a sink of 0 for the learned one", "sinks", _has_sinks,
              sinks("a logit of 0 beside the scores", lambda column: column * 0), "attention-sinks"),
    _mutation("score-bias-missing", "no bias is added to the scores", "score bias", is_attention,
              watching(unbiased), "attention-alibi"),
    _mutation("alibi-slopes", "ALiBi's slopes from one formula, though the heads are no power of two",
              "ALiBi slopes", uses(*MULTIPLY),
              slopes("2 ** (-8 i / heads)", lambda n: [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]),
              "attention-alibi"),
    _mutation("alibi-slopes-from-zero", "ALiBi's slopes begin with 1", "ALiBi slopes", uses(*MULTIPLY),
              slopes("one step earlier", lambda n: [1.0, *published_slopes(n)[:-1]]), "attention-alibi"),
    _mutation("distance-one-on", "distances between tokens are one more", "distances", _has_distances,
              watching(Distances(("one more", DISTANCE), lambda d: d + 1)), *DISTANT),
    _mutation("distance-one-back", "distances between tokens are one less", "distances", _has_distances,
              watching(Distances(("one less", DISTANCE), lambda d: d - 1)), *DISTANT),
    _mutation("bucket-rounding", "of far distances the buckets are rounded the other way", "rounding of buckets",
              uses("ceil", "long"), watching(rounded), "positions-t5", "attention-disentangled-buckets"),
    _mutation("distance-reversed", "distances are counted the other way", "distances", _has_distances,
              watching(Distances(("the query's place less the key's", DISTANCE), lambda d: -d)), *DISTANT),
]  # fmt: skip
