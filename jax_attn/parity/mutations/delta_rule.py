"""Mutations of a memory that fades and is corrected, as in the gated delta rule."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY, uses
from jax_attn.parity.mutations.differential import NORMS, TAKE_OFF
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks, tensor_and_number
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import SUMS

# How fast it fades: `exp(-exp(A) softplus(x + bias))`.


def without_decay(call: TorchCall) -> Any:
    """1 for the exponential of what a softplus is a factor of."""
    import torch

    steps = Marks(call, "steps")
    if call.name == "softplus":
        return steps.put(call.run(), True)
    if call.name in MULTIPLY and any(steps.of(arg) for arg in call.args[:2]):
        return steps.put(call.run(), True)
    if call.name == "exp" and steps.of(call.args[0]):
        call.hits.add("1", "exp(-rate softplus(x))")
        return torch.ones_like(call.args[0])
    return steps.carried(call)


def rate_as_it_is(call: TorchCall) -> Any:
    """`A` for `exp(A)`, of a parameter."""
    import torch

    if call.name != "exp" or not isinstance(call.args[0], torch.nn.Parameter):
        return PASS
    call.hits.add("A", "exp(A)")
    return call.args[0] * 1


def without_bias(call: TorchCall) -> Any:
    """`softplus(x)` for `softplus(x + bias)`."""
    import torch

    summed = Marks(call, "summed")
    if call.name in SUMS and len(call.args) > 1:
        for x, bias in (call.args[:2], call.args[1::-1]):
            if isinstance(bias, torch.nn.Parameter):
                return summed.put(call.run(), (x,))
    if call.name == "softplus" and (known := summed.of(call.args[0])):
        call.hits.add("softplus(x)", "softplus(x + bias)")
        return call.function(*known, *call.args[1:], **call.kwargs)
    return PASS


# The memory: it fades, what it has of a key is taken off the value, the rest is written, and it is read.


class Memory:
    """Follows a memory from token to token.

    Args:
        word: what a diagnosis says of it.
        right: the same of what ought to be.
        read: the old memory is read, before what is new is written.
        correct: whether what the memory has of a key is taken off the value.
        faded: whether that is what it has after it faded.
    """

    def __init__(
        self, word: str, right: str, *, read: bool = False, correct: bool = True, faded: bool = True
    ):
        self.words = word, right
        self.read = read
        self.correct = correct
        self.faded = faded

    def __call__(self, call: TorchCall) -> Any:
        """See what a torch function is to the memory."""
        decays, fading, written, recalled = (
            Marks(call, kind) for kind in ("decays", "faded", "written", "recalled")
        )
        args = call.args[:2]
        if call.name == "exp":
            return decays.put(call.run(), True)
        if call.name in MULTIPLY and len(args) == 2:
            for decay, memory in (args, args[::-1]):
                if decays.of(decay) and getattr(memory, "ndim", 0) == 4:
                    return fading.put(call.run(), (memory,))
            for key, memory in (args, args[::-1]):
                if fading.of(memory) and _is_column(key, memory):
                    if not self.faded:
                        call.hits.add(*self.words)
                        memory = fading.of(memory)[0]
                    return recalled.put(key * memory, True)
                if written.of(memory) and _is_column(key, memory) and self.read:
                    call.hits.add(*self.words)
                    return key * written.of(memory)[0]
        if call.name in SUMS and len(args) == 2 and fading.of(args[0]):
            return written.put(call.run(), args[:1])
        if call.name == "sum" and recalled.of(args[0]):
            return recalled.put(call.run(), True)
        if call.name in TAKE_OFF and len(args) == 2 and recalled.of(args[1]) and not self.correct:
            call.hits.add(*self.words)
            return args[0] * 1
        return decays.carried(call)


def _is_column(vector: Any, memory: Any) -> bool:
    """Whether it is a key or query `(..., h, 1)` beside a memory `(..., h, v)`."""
    return getattr(vector, "shape", (0,))[-1] == 1 and vector.shape[-2:-1] == memory.shape[-2:-1]


# Vectors of length 1, `x rsqrt(Σ x² + eps)` or `normalize`.


def unit(word: str, other: Callable[[Any], Any], number: int | None = None) -> Injector:
    """`other(x)` for `x` divided by its length.

    Args:
        word: what a diagnosis says of it.
        other: what comes of `x`.
        number: which of the vectors of a forward pass gets it, counted from 1; None is each.
    """

    def change(call: TorchCall) -> Any:
        lengths = Marks(call, "lengths")
        if call.name in MULTIPLY and len(call.args) > 1:
            for x, length in (call.args[:2], call.args[1::-1]):
                known = lengths.of(length)
                if known and known[0] is x and x is not length:
                    return _instead(call, x)
            if call.args[0] is call.args[1]:
                return lengths.put(call.run(), call.args[:1])
        if call.name == "normalize":
            return _instead(call, call.args[0])
        if call.name in ("sum", "rsqrt") or (call.name in SUMS and tensor_and_number(call)):
            known, value = lengths.of(call.args[0]), call.run()
            return lengths.put(value, known) if known else value
        return PASS

    def _instead(call: TorchCall, x: Any) -> Any:
        call.state["units"] = call.state.get("units", 0) + 1
        if number not in (None, call.state["units"]):
            return PASS
        call.hits.add(word, "x / |x|")
        return other(x)

    return watching(change)


def _normalize(x: Any) -> Any:
    import torch

    return torch.nn.functional.normalize(x, dim=-1)


# What is around it.


def centred(call: TorchCall) -> Any:
    """Zeros on both sides, for zeros before a sequence that goes through a convolution."""
    pad = call.args[1] if call.name == "pad" and len(call.args) > 1 else ()
    if len(pad) != 2 or pad[0] < 2 or pad[1]:
        return PASS
    both = pad[0] - pad[0] // 2, pad[0] // 2
    call.hits.add(f"zeros {both[0]} before and {both[1]} after", f"zeros {pad[0]} before and 0 after")
    return call.function(call.args[0], both, *call.args[2:], **call.kwargs)


def gate_first(call: TorchCall) -> Any:
    """`norm(x gate)` for `norm(x) gate`."""
    import torch

    normed = Marks(call, "normed")
    if call.name in NORMS:
        return normed.put(
            call.run(), (lambda x: call.function(x, *call.args[1:], **call.kwargs), call.args[0])
        )
    if call.name in MULTIPLY and all(isinstance(arg, torch.Tensor) for arg in call.args[:2]):
        for value, gate in (call.args[:2], call.args[1::-1]):
            known = normed.of(value)
            if known and gate.shape == value.shape and gate is not value:
                norm, x = known
                call.hits.add("norm(x gate)", "norm(x) gate")
                return norm(x * gate)
    return PASS


_mutation = partial(Mutation, family="attention", on=("gated-delta-net",))


def _memory(name: str, summary: str, word: str, right: str, **options: bool) -> Mutation:
    return _mutation(name, summary, "memory", uses("exp"), watching(Memory(word, right, **options)))


def _units(
    name: str, summary: str, word: str, other: Callable[[Any], Any], number: int | None = None
) -> Mutation:
    return _mutation(
        name, summary, "length of vectors", uses("rsqrt", "normalize"), unit(word, other, number)
    )


DELTA_RULE = [
    _mutation("fading-missing", "the memory does not fade", "decay", uses("softplus"), watching(without_decay)),
    _mutation("decay-rate", "the rate of the decay is the parameter itself, not its exponential", "decay",
              uses("exp"), watching(rate_as_it_is)),
    _mutation("softplus-bias-missing", "no bias in the softplus", "softplus", uses("softplus"),
              watching(without_bias)),
    _memory("memory-read-early", "the memory is read before it is written", "read, then written",
            "written, then read", read=True),
    _memory("subtraction-missing", "what the memory has of a key is not taken off the value", "v",
            "v - what the memory has of k", correct=False),
    _memory("correction-early", "the memory is asked for a key before it fades", "asked, then faded",
            "faded, then asked", faded=False),
    _units("unit-missing", "vectors are not divided by their lengths", "x", lambda x: x * 1),
    _units("first-unit-missing", "the first vectors, of queries, are not divided by their lengths",
           "x of the first", lambda x: x * 1, 1),
    _units("second-unit-missing", "the second vectors, of keys, are not divided by their lengths",
           "x of the second", lambda x: x * 1, 2),
    _units("unit-eps", "vectors are divided by their lengths, with nothing added to them", "x / |x| without eps",
           _normalize),
    _mutation("convolution-centred", "a causal convolution sees later tokens", "padding", uses("pad"),
              watching(centred)),
    _mutation("gate-first", "the gate is multiplied before the norm, not after it", "gate", uses(*NORMS, "RMSNorm"),
              watching(gate_first)),
]  # fmt: skip
