"""Mutations of gates, and of the router that weighs experts."""

from functools import partial
from typing import Any

from jax_attn.parity.mutations.activations import EVERY
from jax_attn.parity.mutations.calls import MULTIPLY, uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.mutation import Mutation

# What gives the same numbers in another shape or dtype.
SHAPED = ("unflatten", "flatten", "transpose", "movedim", "permute", "reshape", "view", "unsqueeze", "squeeze",
          "__getitem__", "expand", "to", "float", "type_as", "contiguous")  # fmt: skip


class Ungated:
    """`x` for `activation(gate) x`, where the activation is one of these functions."""

    def __init__(self, *names: str):
        self.names = names

    def __call__(self, call: TorchCall) -> Any:
        """Follow what is activated to what it is multiplied with."""
        activated, args = call.state.setdefault("activated", {}), call.args
        source = args[0] if args else None
        if call.name in self.names:
            value = call.run()
            activated[id(value)] = value, source, call.name
            return value
        if call.name in SHAPED and id(source) in activated:
            value = call.run()
            activated[id(value)] = value, *activated[id(source)][1:]
            return value
        if call.name == "unbind" and id(source) in activated:  # token by token
            values = call.run()
            activated |= {id(value): (value, *activated[id(source)][1:]) for value in values}
            return values
        if call.name in MULTIPLY and all(hasattr(arg, "shape") for arg in args[:2]):
            for gate, x in (args[:2], args[1::-1]):
                found = activated.get(id(gate))
                if found and x is not found[1] and id(x) not in activated and _covers(x, gate):
                    call.hits.add("none", f"{found[2]}(gate) x")
                    return x * 1
        return PASS


def _covers(x: Any, gate: Any) -> bool:
    """Whether a product is of the first one's shape."""
    import torch

    return x.ndim > 1 and torch.broadcast_shapes(x.shape, gate.shape) == x.shape


def unweighted(call: TorchCall) -> Any:
    """1 for the weight of each chosen expert."""
    import torch

    chosen, softmaxed = (call.state.setdefault(name, {}) for name in ("chosen", "softmaxed"))
    x = call.args[0] if call.args else None
    if call.name == "topk":
        found = call.run()
        chosen[id(found[0])] = found[0]
        if id(x) not in softmaxed:
            return found
        call.hits.add("1 for each expert", "the router's")
        return torch.return_types.topk((torch.ones_like(found[0]), found[1]))
    if call.name == "softmax":
        value = call.run()
        softmaxed[id(value)] = value
        if id(x) in chosen:
            call.hits.add("1 for each expert", "the router's")
            return torch.ones_like(value)
        return value
    return PASS


ALL, CHOSEN = "softmax over all experts, then the choice", "softmax over those chosen"


def softmax_elsewhere(call: TorchCall) -> Any:
    """The softmax over the chosen experts in place of that over all, and the other way round."""
    import torch

    softmaxed, chosen = (call.state.setdefault(name, {}) for name in ("softmaxed", "chosen"))
    x = call.args[0] if call.args else None
    if call.name == "softmax" and id(x) in chosen:
        _, indices, logits = chosen[id(x)]
        call.hits.add(ALL, CHOSEN)
        return logits.softmax(-1).gather(-1, indices)
    if call.name == "softmax":
        value = call.run()
        softmaxed[id(value)] = value, x
        return value
    if call.name == "topk":
        found = call.run()
        if id(x) not in softmaxed:
            chosen[id(found[0])] = (*found, x)
            return found
        call.hits.add(CHOSEN, ALL)
        weights = softmaxed[id(x)][1].gather(-1, found[1]).softmax(-1)
        return torch.return_types.topk((weights, found[1]))
    return PASS


_mutation = partial(Mutation, family="layers")

GATES = [
    _mutation("gate-missing", "a gate of a sigmoid is left out", "gate", uses("sigmoid", "Sigmoid"),
              watching(Ungated("sigmoid", "sigmoid_")),
              on=("attention-gated", "feed-forward-glu", "mixture-of-experts-shared", "gated-delta-net")),
    _mutation("glu-missing", "of a gated layer, the activated half is left out", "gate", uses(*EVERY),
              watching(Ungated(*sorted(EVERY - {"sigmoid"}))), on=("feed-forward-geglu",)),
    _mutation("router-softmax", "the router's softmax before the choice of experts, not after, or the reverse",
              "router", uses("topk"), watching(softmax_elsewhere),
              on=("mixture-of-experts", "mixture-of-experts-shared")),
    _mutation("router-unweighted", "what the chosen experts give is added up without the router's weights",
              "weights of experts", uses("topk"), watching(unweighted), on=("mixture-of-experts",)),
]  # fmt: skip
