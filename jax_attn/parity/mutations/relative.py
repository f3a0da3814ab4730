"""Mutations of relative attention: of the biases that queries get, and of the waves that stand for distances."""

from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import is_attention, uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import SUMS


def query_bias(word: str, number: int | None) -> Injector:
    """Queries `(b, t, n, h)` without the bias `(n, h)` that is added to them; `number` says which, None is each."""

    def change(call: TorchCall) -> Any:
        import torch

        for x, bias in (call.args[:2], call.args[1::-1]) if call.name in SUMS and len(call.args) > 1 else ():
            if isinstance(bias, torch.nn.Parameter) and bias.ndim == 2 and x.shape[-2:] == bias.shape:
                call.state["biases"] = call.state.get("biases", 0) + (x.ndim == 4)
                if x.ndim != 4 or number not in (None, call.state["biases"]):
                    return PASS
                call.hits.add(word, "q + a bias of each head")
                return x * 1
        return PASS

    return watching(change)


def waves(word: str, joined: Any) -> Injector:
    """`joined(sines, cosines)` for sines beside cosines."""

    def change(call: TorchCall) -> Any:
        made = Marks(call, "waves")
        if call.name in ("sin", "cos"):
            return made.put(call.run(), call.name)
        parts = call.args[0] if call.name in ("cat", "concat", "concatenate") else ()
        if [made.of(part) for part in parts] != ["sin", "cos"]:
            return PASS
        call.hits.add(word, "sines, then cosines")
        return joined(*parts)

    return watching(change)


def _in_turn(sines: Any, cosines: Any) -> Any:
    import torch

    return torch.stack([sines, cosines], -1).flatten(-2)


def _cosines_first(sines: Any, cosines: Any) -> Any:
    import torch

    return torch.cat([cosines, sines], -1)


_mutation = partial(Mutation, family="attention", on=("attention-relative",))
BIAS, WAVES = "bias of queries", "waves of distances"

RELATIVE = [
    _mutation("query-bias-missing", "queries get no bias", BIAS, is_attention, query_bias("q", None)),
    _mutation("query-bias-missing-first", "queries get no bias where they meet the keys", BIAS, is_attention,
              query_bias("q, of the first bias", 1)),
    _mutation("query-bias-missing-second", "queries get no bias where they meet the distances", BIAS, is_attention,
              query_bias("q, of the second bias", 2)),
    _mutation("waves-in-turn", "sines and cosines of distances in turn, not one after the other", WAVES,
              uses("sin"), waves("sines and cosines in turn", _in_turn)),
    _mutation("waves-cosines-first", "cosines of distances before sines", WAVES, uses("sin"),
              waves("cosines, then sines", _cosines_first)),
]  # fmt: skip
