"""Mutations of how RMS norms are weighted, and of the norms of queries and keys."""

from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import is_attention
from jax_attn.parity.mutations.injection import PASS, Forward, Hits, TorchCall, watch, wrap, wrapping
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.norms import norms_of, uncentred_norms
from jax_attn.parity.mutations.points import SUMS, Chain, Points
from jax_attn.parity.mutations.rotary import has_rotary
from jax_attn.parity.mutations.weights import Substitute

OFFSET, WEIGHT = "x (1 + weight)", "x weight"


def without_offset(call: TorchCall) -> Any:
    """`weight` for `1 + weight`, in whatever dtype."""
    import torch

    weights = call.state.setdefault("weights", {})
    if call.name in ("to", "float", "double", "type_as") and _is_weight(call.args[0], weights):
        value = call.run()
        weights[id(value)] = value
        return value
    if call.name in SUMS and len(call.args) > 1:
        for number, weight in (call.args[:2], call.args[1::-1]):
            plain = not isinstance(number, torch.Tensor) and number == 1
            if plain and isinstance(weight, torch.Tensor) and _is_weight(weight, weights):
                call.hits.add(WEIGHT, OFFSET)
                return weight * 1
    return PASS


def _is_weight(value: Any, known: dict[int, Any]) -> bool:
    import torch

    return id(value) in known or (isinstance(value, torch.nn.Parameter) and value.ndim == 1)


def _without_offset(module: Any, hits: Hits) -> None:
    for norm in uncentred_norms(module):
        watch(norm, without_offset, hits)


def _weights(module: Any) -> list[Any]:
    return [p for norm in uncentred_norms(module) for p in norm.parameters() if p.ndim == 1]


def left_out(hits: Hits, norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Heads are handed on."""
    if x.ndim != 4:
        return forward(x, *args, **kwargs)
    hits.add("none", "queries and keys are normalised")
    return x * 1


def _after_rotation(module: Any, hits: Hits) -> None:
    """Each norm waits for the scores; it is the first that is called for the queries, and then the keys."""
    waiting: list[Any] = []

    def around(norm: Any, forward: Any, x: Any) -> Any:
        if x.ndim != 4:
            return forward(x)
        waiting.append(forward)
        return x * 1

    def scores(forward: Forward, chain: Chain, product: Any) -> Any:
        if len(waiting) < 2:
            return product
        of_queries, of_keys, *_ = waiting
        waiting.clear()
        hits.add("normalised after they are turned", "normalised, then turned")
        return of_queries(chain.queries) @ of_keys(chain.keys.mT).mT

    for norm in norms_of(module):
        wrap(norm, around)
    watch(module, Points(scores=scores), hits)


_mutation = partial(Mutation, family="layers")

NORM_USES = [
    _mutation("norm-offset-missing", "an RMS norm multiplies by weight, not by 1 + weight", "norm weight",
              uncentred_norms, _without_offset, on=("encoder-layer-sandwich",)),
    _mutation("norm-offset-added", "an RMS norm multiplies by 1 + weight, not by weight", "norm weight",
              uncentred_norms, Substitute(_weights, lambda weight: weight + 1, (OFFSET, WEIGHT)).inject,
              on=("decoder layer",)),
    _mutation("qk-norm-missing", "queries and keys are not normalised", "QK-norm",
              lambda module: is_attention(module) and norms_of(module), wrapping(norms_of, left_out),
              on=("attention-rotary",)),
    _mutation("qk-norm-late", "queries and keys are normalised after their rotary positions", "QK-norm",
              lambda module: has_rotary(module) and norms_of(module), _after_rotation, on=("attention-rotary",)),
]  # fmt: skip
