"""Mutations of rotary positions, whatever the rotation is written in.

The cosines and sines are caught where something is multiplied by them. Just before queries and keys meet,
they are turned back by torch's angles, and then turned as the mutation would have it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jax_attn.parity.mutations.calls import COSINES, MULTIPLY, functions_of, is_attention, turns
from jax_attn.parity.mutations.injection import Forward, TorchCall, watching
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points


@dataclass(frozen=True)
class Rotation:
    """Angles `(..., t, r/2)` by which pairs of the first r features are turned.

    Attributes:
        angles: of each position and pair.
        interleaved: whether neighbours are a pair; else a feature of one half and one of the other.
        mixed: whether the angles are in the order of the other layout; this is no rotation, and is not turned back.
        width: how many features there are.
        last: whether the last r features are turned.
    """

    angles: Any
    interleaved: bool
    mixed: bool = False
    width: int = 0
    last: bool = False

    def of(self, x: Any, back: bool = False) -> Any:
        """Turn `(b, n, t, h)`, or turn it back; in float64, for the angles to be exact."""
        import torch

        half = self.angles.shape[-1]
        x = x.roll(2 * half, -1) if self.last else x
        turned, rest = x[..., : 2 * half].to(self.angles), x[..., 2 * half :]
        apart = turned.unflatten(-1, (half, 2) if self.interleaved else (2, half))
        axis = -1 if self.interleaved else -2
        a, b = apart.unbind(axis)
        if self.mixed:
            across = torch.stack([-b, a], axis).flatten(-2)
            twice = torch.cat([self.angles, self.angles], -1)
            angles = twice if self.interleaved else self.angles.repeat_interleave(2, -1)
            turned = turned * angles.cos() + across * angles.sin()
        else:
            cos, sin = self.angles.cos(), self.angles.sin() * (-1 if back else 1)
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], axis).flatten(-2)
        whole = torch.cat([turned.to(x), rest], -1)
        return whole.roll(-2 * half, -1) if self.last else whole


Other = Callable[[Rotation], tuple[Rotation | None, Rotation | None] | None]
"""The rotations of queries and of keys with the mutation, None for none at all; None if it does not apply."""


class Rotary:
    """Watches for the cosines and sines, and changes the rotation of queries and keys; None turns values too."""

    def __init__(self, words: Callable[[Rotation], tuple[str, str]], other: Other | None):
        self.words = words
        self.other = other
        self.points = (
            Points(mix=self._mix) if other is None else Points(scores=self._scores, prefers=_is_turned)
        )

    def __call__(self, call: TorchCall) -> Any:
        """See what a torch function is to rotary positions and to attention."""
        if call.name in MULTIPLY:
            for factor in call.args[:2]:
                turns(call.state, factor)
        if call.name == "__getitem__" and _in_steps_of_two(call.args[1]):
            call.state["in steps of two"] = True
        return self.points(call)

    def _scores(self, forward: Forward, chain: Chain, product: Any) -> Any:
        queries, keys = chain.queries, chain.keys
        rotation = _rotation(forward, queries)
        rotation = None if rotation is None else replace(rotation, width=queries.shape[-1])
        other = None if rotation is None or self.other is None else self.other(rotation)
        if rotation is None or other is None or keys.shape[-1] != queries.shape[-2]:
            return product
        forward.hits.add(*self.words(rotation))
        turned = []
        for x, instead in zip((queries, keys.mT), other, strict=True):
            plain = rotation.of(x, back=True)
            turned.append(plain if instead is None else instead.of(plain))
        return turned[0] @ turned[1].mT

    def _mix(self, forward: Forward, chain: Chain, weights: Any, values: Any) -> Any:
        rotation = _rotation(forward, chain.queries)
        if rotation is None or values.shape[-2:] != chain.queries.shape[-2:]:
            return weights @ values
        forward.hits.add(*self.words(rotation))
        return weights @ rotation.of(values)


def _is_turned(forward: Forward, chain: Chain) -> bool:
    """Whether all features of the queries are turned."""
    rotation = _rotation(forward, chain.queries)
    return rotation is not None and _turned(rotation) == chain.queries.shape[-1]


def _in_steps_of_two(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, slice) and part.step == 2 for part in parts)


def _rotation(forward: Forward, queries: Any) -> Rotation | None:
    """Torch's rotation, as `(b, n, t, h)` are turned by it."""
    import torch

    if "cosines" not in forward.state:
        return None
    cos, sin = (x.double() for x in forward.state["cosines"])
    tokens = queries.shape[-2]
    axes = [axis for axis in range(cos.ndim - 1) if cos.shape[axis] == tokens]
    if not axes:
        return None
    angles = torch.atan2(sin, cos).movedim(axes[-1], -2)
    while angles.ndim > 2 and angles.shape[0] == 1:
        angles = angles[0]
    if angles.ndim > 2:  # for each text of its own
        angles = angles.flatten(1, -3)[:, :1] if angles.ndim > 3 else angles[:, None]
    interleaved = forward.state.get("in steps of two", False)
    half = angles.shape[-1] // 2
    if half and _same(angles[..., :half], angles[..., half:]):
        return Rotation(angles[..., :half], False)
    if half and _same(angles[..., ::2], angles[..., 1::2]):
        return Rotation(angles[..., ::2], True)
    return Rotation(angles, interleaved) if 2 * angles.shape[-1] <= queries.shape[-1] else None


def _same(a: Any, b: Any) -> bool:
    """Whether angles are the same, but for rounding."""
    return a.shape == b.shape and bool(((a - b).sin().abs() < 1e-9).all())


# The mutations.


def layout_words(rotation: Rotation) -> tuple[str, str]:
    """Which features are a pair."""
    words = "pairs of neighbours (interleaved)", "pairs across the halves (half-split)"
    return words[::-1] if rotation.interleaved else words


def order_words(rotation: Rotation) -> tuple[str, str]:
    """In which order the frequencies are, for which layout."""
    orders = ("each twice", "all, twice over")[:: -1 if rotation.interleaved else 1]
    return f"{orders[0]}, for {layout_words(rotation)[1]}", f"{orders[1]}, for {layout_words(rotation)[1]}"


def base_of(rotation: Rotation) -> float | None:
    """The base whose powers are the frequencies, read from the angles of position 1; None if there is none."""
    import torch

    angles = rotation.angles.reshape(-1, *rotation.angles.shape[-2:])[0]
    if angles.shape[0] < 2 or angles.shape[1] < 2 or not torch.allclose(
        angles[:2, 0], angles.new_tensor([0.0, 1.0]), rtol=0, atol=1e-6
    ):  # fmt: skip
        return None
    base = float(angles[1, 1]) ** -angles.shape[1] if float(angles[1, 1]) > 0 else math.nan
    return float(f"{base:.4g}") if math.isfinite(base) and base > 1 else None


def _from_base(base: float, rotation: Rotation, half: int | None = None) -> Rotation:
    """Angles of positions from 0, from a base; `half` is the number of pairs, if it is another."""
    import torch

    tokens, pairs = rotation.angles.shape[-2:]
    half = pairs if half is None else half
    exponents = torch.arange(half, dtype=torch.float64) / half
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * float(base) ** -exponents
    return replace(rotation, angles=angles.to(rotation.angles))


def _half_exponent(rotation: Rotation) -> Rotation | None:
    """`base ** -(i / d)` for `base ** -(2i / d)`."""
    base = base_of(rotation)
    return None if base is None else _from_base(base**0.5, rotation)


def _turned(rotation: Rotation) -> int:
    """How many features are turned."""
    return 2 * rotation.angles.shape[-1]


def _with_pairs(rotation: Rotation, half: int) -> Rotation | None:
    """The same base for another number of pairs."""
    base = base_of(rotation)
    return None if base is None or half < 1 else _from_base(base, rotation, half)


def _of_part(change: Callable[[Rotation], Rotation | None]) -> Callable[[Rotation], Rotation | None]:
    """The change of a rotation of some features alone."""
    return lambda rotation: change(rotation) if _turned(rotation) < rotation.width else None


def _whole_exponents(rotation: Rotation) -> Rotation | None:
    """`base ** -(2i / head_dim)` where r features are turned."""
    base = base_of(rotation)
    return None if base is None else _from_base(base ** (_turned(rotation) / rotation.width), rotation)


def _one_on(rotation: Rotation) -> Rotation | None:
    """Every token stands one further on."""
    angles = rotation.angles
    if angles.shape[-2] < 2:
        return None
    return replace(rotation, angles=angles + angles[..., 1:2, :] - angles[..., :1, :])


def _keys_one_on(rotation: Rotation) -> tuple[Rotation, Rotation] | None:
    """Keys that stand one further on than their queries."""
    further = _one_on(rotation)
    return None if further is None else (rotation, further)


def _queries_one_on(rotation: Rotation) -> tuple[Rotation, Rotation] | None:
    """Queries that stand one further on than their keys."""
    found = _keys_one_on(rotation)
    return None if found is None else found[::-1]


def both(change: Callable[[Rotation], Rotation | None]) -> Other:
    """The same other rotation of queries and keys."""

    def other(rotation: Rotation) -> Any:
        found = change(rotation)
        return None if found is None else (found, found)

    return other


def has_rotary(module: Any) -> bool:
    """Whether there are rotary positions in a module, as far as the names in its code show.

    "rotate" says nothing: it is what our attention asks of all positions.
    """
    names = functions_of(module)
    used = names & {"cos", "sin", "polar", "view_as_complex", "view_as_real", "position_embeddings", COSINES}
    return is_attention(module) and (
        bool(used) or any("rot" in n or "rope" in n for n in map(str.lower, names - {"rotate"}))
    )


def _rotary(
    name: str,
    summary: str,
    setting: str,
    words: Any,
    other: Other | None,
    on: tuple[str, ...] = ("decoder layer",),
) -> Mutation:
    """A mutation of rotary positions; `words` are those, or what gives them of a rotation."""
    given = words if callable(words) else lambda rotation: words
    injector = watching(Rotary(given, other))
    return Mutation(name, summary, setting, has_rotary, injector, family="rotary", on=on)


def base_mutation(base: float, on: tuple[str, ...] = ()) -> Mutation:
    """Rotary frequencies from another base."""

    def change(rotation: Rotation) -> Rotation | None:
        return None if base_of(rotation) in (None, base) else _from_base(base, rotation)

    return _rotary(
        f"rotary-base-{base:g}",
        f"the base of the rotary frequencies is {base:g}",
        "rotary base",
        lambda rotation: (f"{base:g}", f"{base_of(rotation):g}"),
        both(change),
        on,
    )


WHOLE, PARTIAL = ("attention-rotary",), ("attention-rotary-partial",)
ROTATION, FREQUENCIES, ALL = "rotary positions", "rotary frequencies", "of queries and keys"

ROTARY = [
    _rotary("rotary-layout", "interleaved rotary positions for half-split ones, or the other way round",
            "rotary layout", layout_words, both(lambda r: replace(r, interleaved=not r.interleaved)),
            ("decoder layer", *PARTIAL)),
    _rotary("rotary-sign", "rotary positions turn the other way", ROTATION, ("turned by -t", "turned by t"),
            both(lambda r: replace(r, angles=-r.angles))),
    _rotary("rotary-missing", "no rotary positions", ROTATION, ("none", ALL), lambda r: (None, None)),
    _rotary("rotary-missing-keys", "rotary positions of the queries alone", ROTATION,
            ("of queries alone", ALL), lambda r: (r, None)),
    _rotary("rotary-missing-queries", "rotary positions of the keys alone", ROTATION,
            ("of keys alone", ALL), lambda r: (None, r)),
    base_mutation(500000.0, on=("decoder layer",)),
    base_mutation(10000.0, on=("decoder layer 5e5", *PARTIAL)),
    _rotary("rotary-frequencies-reversed", "rotary frequencies from the last pair to the first", FREQUENCIES,
            ("from the last pair to the first", "from the first pair to the last"),
            both(lambda r: replace(r, angles=r.angles.flip(-1)))),
    _rotary("rotary-frequencies-mixed", "rotary frequencies in the order of the other layout", FREQUENCIES,
            order_words, both(lambda r: replace(r, mixed=True))),
    _rotary("rotary-exponent", "the exponents of the rotary frequencies are half of what they ought to be",
            FREQUENCIES, ("base ** -(i / d)", "base ** -(2i / d)"), both(_half_exponent)),
    _rotary("rotary-whole", "rotary positions of all features, not of the first ones alone", "rotary dimension",
            lambda r: (f"{r.width}", f"{_turned(r)}"), both(_of_part(lambda r: _with_pairs(r, r.width // 2))),
            PARTIAL),
    _rotary("rotary-half", "rotary positions of the first half of the features, not of all", "rotary dimension",
            lambda r: (f"{_turned(r) // 4 * 2}", f"{_turned(r)}"),
            both(lambda r: _with_pairs(r, _turned(r) // 4) if _turned(r) == r.width else None), WHOLE),
    _rotary("rotary-last", "rotary positions of the last features, not of the first", "rotary features",
            ("the last", "the first"), both(_of_part(lambda r: replace(r, last=True))), PARTIAL),
    _rotary("rotary-exponent-of-head", "rotary frequencies from the width of the head, though fewer are turned",
            FREQUENCIES, ("base ** -(2i / head_dim)", "base ** -(2i / rotary_dim)"),
            both(_of_part(_whole_exponents)), PARTIAL),
    _rotary("rotary-one-on", "queries are turned as if they stood one further on than their keys", ROTATION,
            ("queries one further on", "queries and keys alike"), _queries_one_on, WHOLE),
    _rotary("rotary-keys-one-on", "keys are turned as if they stood one further on than their queries", ROTATION,
            ("keys one further on", "queries and keys alike"), _keys_one_on, WHOLE),
    _rotary("rotary-values", "values are turned as queries and keys are", ROTATION,
            ("of values too", ALL), None, WHOLE),
]  # fmt: skip
