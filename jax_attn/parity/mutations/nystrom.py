"""Mutations of Nyström attention: of its landmarks, of the inverse between them, and of its convolution."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import CONVOLVE, MULTIPLY, uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import FILLS, PRODUCTS, SUMS
from jax_attn.parity.mutations.score_sums import DIVIDE

# Landmarks, the means of segments of tokens `(b, n, l, size, h)`.


def landmarks(word: str, other: Callable[[Any, Any], Any]) -> Injector:
    """`other(tokens, kept)` for the means of segments; `kept` are 1 or 0, `(b, n, l, size, 1)`."""

    def change(call: TorchCall) -> Any:
        import torch

        sums = Marks(call, "sums of segments")
        if call.name in ("sum", "mean"):
            x = call.args[0]
            if x.ndim != 5 or call.named("x", "dim").get("dim") not in (3, -2):
                return PASS
            if call.name == "sum":  # of which some are zeros, for what is masked or missing
                return sums.put(call.run(), (x, x.ne(0).any(-1, keepdim=True)))
            tokens, kept = x, torch.ones_like(x[..., :1])
        elif call.name in DIVIDE and sums.of(call.args[0]):
            tokens, kept = sums.of(call.args[0])
        else:
            return PASS
        call.hits.add(word, "the mean of the tokens of a segment, of neighbours")
        return other(tokens, kept.to(tokens.dtype))

    return watching(change)


def _mean(tokens: Any, kept: Any) -> Any:
    return (tokens * kept).sum(-2) / kept.sum(-2).clamp(min=1)


def _regrouped(tokens: Any, kept: Any, order: Callable[[Any], Any]) -> Any:
    """The means of other segments, whose tokens `order` takes from `(b, n, t, h)`."""
    return _mean(*(order(x.flatten(2, 3)).reshape(x.shape) for x in (tokens, kept)))


def _strided(tokens: Any, kept: Any) -> Any:
    segments = tokens.shape[2]
    return _regrouped(tokens, kept, lambda x: x.unflatten(2, (-1, segments)).transpose(2, 3))


def _filled_before(tokens: Any, kept: Any) -> Any:
    return _regrouped(tokens, kept, lambda x: x.roll(_missing(kept), 2))


def _cut_off(tokens: Any, kept: Any) -> Any:
    """Segments of the length that is rounded down; what is left of the tokens is in none."""
    segments = tokens.shape[2]
    size = (segments * tokens.shape[3] - _missing(kept)) // segments
    parts = (x.flatten(2, 3)[:, :, : segments * size].unflatten(2, (segments, size)) for x in (tokens, kept))
    return _mean(*parts)


def _missing(kept: Any) -> int:
    """How many tokens were filled in behind the last."""
    return int(kept.flatten(2, 3).amax((0, 1, 3)).flip(0).argmax())


# The inverse of the softmax between landmarks, `A`: iterated from `Aᵀ` by a number, and a factor of what comes.


def inverse(word: str, right: str, other: Callable[[Any, Any, int], Any]) -> Injector:
    """`other(A, z, n)` for the inverse `z`, which is made of `A` in `n` iterations."""

    def change(call: TorchCall) -> Any:
        soft, made = Marks(call, "softmaxes"), Marks(call, "inverses")
        args = call.args[:2]
        if call.name == "softmax":
            return soft.put(value := call.run(), value)
        if call.name in FILLS and soft.of(args[0]) is not None:
            return soft.put(value := call.run(), value)
        if call.name in PRODUCTS and len(args) == 2:
            return _product(call, soft, made)
        if call.name in (*MULTIPLY, *DIVIDE) and len(args) == 2:
            for x in args:
                if made.of(x):
                    return made.put(call.run(), made.of(x))
                source = soft.of(x)
                if source is not None and x.shape[-1] == x.shape[-2] and x.stride() == source.mT.stride():
                    return made.put(call.run(), (source, 0))
        return soft.carried(call)

    def _product(call: TorchCall, soft: Marks, made: Marks) -> Any:
        left, right_side = call.args[:2]
        known = made.of(right_side)
        if made.of(left):  # an iteration
            source, n = made.of(left)
            return made.put(call.run(), (source, n + 1))
        if known and known[1] and soft.of(left) is not None and soft.of(left) is not known[0]:
            value = other(known[0], right_side, known[1])
            if value is not PASS:
                call.hits.add(word, right.format(known[1]))
                return call.function(left, value)
        return PASS

    return watching(change)


def _start(a: Any, largest: Any) -> Any:
    return a.mT / largest.masked_fill(largest == 0, 1)


def _columns(a: Any) -> Any:
    return a.sum(-2).amax(-1)[..., None, None]


def _third_order(a: Any, z: Any) -> Any:
    product, one = a @ z, _identity(a)
    return z @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4


def _second_order(a: Any, z: Any) -> Any:
    return z @ (2 * _identity(a) - a @ z)


def _identity(a: Any) -> Any:
    import torch

    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def _iterated(a: Any, n: int, start: Any = None, step: Callable[[Any, Any], Any] = _third_order) -> Any:
    z = _start(a, _columns(a)) if start is None else start
    for _ in range(n):
        z = step(a, z)
    return z


def _pinv(a: Any) -> Any:
    import torch

    return torch.linalg.pinv(a)


# The convolution of the values, which is added to the heads.


def without_convolution(call: TorchCall) -> Any:
    """`x` for `x + conv(v)`."""
    convolved = Marks(call, "convolved")
    if call.name in CONVOLVE:
        return convolved.put(call.run(), True)
    if call.name in SUMS and len(call.args) > 1:
        for x, added in (call.args[:2], call.args[1::-1]):
            if convolved.of(added) and not convolved.of(x):
                call.hits.add("heads", "heads + convolution of the values")
                return x * 1
    return PASS


_mutation = partial(Mutation, family="attention", on=("attention-nystrom",))


def _marks(name: str, summary: str, word: str, other: Callable[[Any, Any], Any]) -> Mutation:
    return _mutation(f"landmarks-{name}", summary, "landmarks", uses("sum", "mean"), landmarks(word, other))


def _inverse(
    name: str, summary: str, words: tuple[str, str], other: Callable[[Any, Any, int], Any]
) -> Mutation:
    return _mutation(f"inverse-{name}", summary, "inverse", uses("eye"), inverse(*words, other))


STEPS, BEGIN = "{} iterations", "from Aᵀ / the largest sum of a column"

NYSTROM = [
    _marks("strided", "landmarks are the means of every n-th token, not of neighbours",
           "the mean of every n-th token", _strided),
    _marks("filled-before", "what is missing of the first segment, not of the last, is filled up",
           "the first segment is the short one", _filled_before),
    _marks("cut-off", "the length of segments is rounded down, and the last tokens are in none",
           "segments of the length rounded down", _cut_off),
    _marks("undivided", "landmarks are sums of tokens, not means", "the sum of the tokens",
           lambda tokens, kept: (tokens * kept).sum(-2)),
    _marks("whole-length", "landmarks are sums by the length of a segment, where tokens are missing too",
           "the sum by the length of a segment", lambda tokens, kept: (tokens * kept).sum(-2) / tokens.shape[-2]),
    _marks("first", "a landmark is the first token of its segment", "the first token of a segment",
           lambda tokens, kept: tokens[..., 0, :] * 1),
    _inverse("one-less", "the inverse is iterated once less", ("one iteration less", STEPS),
             lambda a, z, n: _iterated(a, n - 1)),
    _inverse("one-more", "the inverse is iterated once more", ("one iteration more", STEPS),
             lambda a, z, n: _third_order(a, z)),
    _inverse("exact", "the inverse is exact, not iterated", ("the exact inverse", STEPS), lambda a, z, n: _pinv(a)),
    _inverse("second-order", "the inverse is iterated by z (2 - a z), which is of second order",
             ("z (2 - a z)", "an iteration of third order"), lambda a, z, n: _iterated(a, n, step=_second_order)),
    _inverse("unscaled", "the inverse is iterated from the transpose as it is", ("from Aᵀ", BEGIN),
             lambda a, z, n: _iterated(a, n, a.mT)),
    _inverse("scale-shared", "the inverse is iterated from one scale for the whole batch",
             ("from Aᵀ / the largest sum of a column of the whole batch", BEGIN),
             lambda a, z, n: _iterated(a, n, _start(a, _columns(a).max()))),
    _inverse("not-transposed", "the inverse is iterated from the matrix, not from its transpose",
             ("from A / the largest sum of a column", BEGIN),
             lambda a, z, n: _iterated(a, n, _start(a, _columns(a)).mT)),
    _inverse("transposed", "the inverse is transposed", ("the transposed inverse", "the inverse"),
             lambda a, z, n: z.mT * 1),
    _mutation("value-convolution-missing", "no convolution of the values is added to the heads", "convolution",
              uses(*CONVOLVE, "Conv1d", "Conv2d"), watching(without_convolution)),
]  # fmt: skip
