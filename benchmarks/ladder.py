"""The comparison of multi-head implementations: each Flax variant, jitted, beside its eager twin in torch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import torch_side
from benchmarks.cases import Shape
from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender, jitted, output_alone
from jax_attn.catalogue import CATALOGUE
from jax_attn.weights.state_dict import load_state_dict

NAMES = ("Flax, jitted", "torch, eager")
TAKEN = {"d_in", "d_out", "context_length", "dropout", "num_heads"}  # what all of them are built from
VARIANTS = tuple(
    name for name, twin in CATALOGUE.items() if TAKEN <= set(twin.arguments) <= {*TAKEN, "need_weights"}
)
SHAPE = Shape(8, 1024, 12, 64)


def bench_ladder(
    shape: Shape = SHAPE,
    *,
    variants: Sequence[str] = VARIANTS,
    passes: Sequence[bool] = (False, True),
    rounds: int = 7,
) -> Iterator[Comparison]:
    """Time each variant on random tokens, with the weights of its twin, in float32.

    Args:
        shape: batch, tokens, heads and the width of a head; the module is as wide as all heads together.
        variants: names of the catalogue.
        passes: False is the forward pass, True with the gradients of the input and all weights.
        rounds: how often each contender is timed.
    """
    for backward in passes:
        for name in variants:
            case = f"{name}, {'forward+backward' if backward else 'forward'}"
            yield contest(case, _contenders(name, shape, backward), rounds=rounds)


def _contenders(name: str, shape: Shape, backward: bool) -> dict[str, Contender]:
    flax, torch = _modules(name, shape)
    rng = np.random.default_rng(0)
    size = (shape.batch, shape.tokens, shape.heads * shape.head_dim)
    x, cotangent = (rng.standard_normal(size, np.float32) for _ in range(2))
    graphdef, weights, rest = nnx.split(flax, nnx.Param, ...)

    def run(x: jax.Array, weights: Any) -> jax.Array:
        return nnx.merge(graphdef, weights, rest)(x)

    given, downstream = torch_side.as_torch(x, "float32"), torch_side.as_torch(cotangent, "float32")
    upstream = jnp.asarray(cotangent) if backward else None
    ours = jitted(run, jnp.asarray(x), weights, cotangent=upstream)
    theirs = torch_side.eager(
        torch, given, cotangent=downstream if backward else None, wrt=[given, *torch.parameters()]
    )
    # The weights' gradients come in another order and layout; that they are the same is proved elsewhere.
    return {name: output_alone(c) for name, c in zip(NAMES, (ours, theirs), strict=True)}


def _modules(name: str, shape: Shape) -> tuple[nnx.Module, Any]:
    """Both sides of a variant, in evaluation mode, with the same weights."""
    width = shape.heads * shape.head_dim
    sizes = {
        "d_in": width,
        "d_out": shape.head_dim if name == "multi-head-wrapper" else width,  # there: of each head
        "context_length": shape.tokens,
        "dropout": 0.0,
        "num_heads": shape.heads,
    }
    twin = replace(CATALOGUE[name], arguments={**CATALOGUE[name].arguments, **sizes})
    torch = twin.torch().eval().to(torch_side.device())
    flax = load_state_dict(twin.flax(), torch.state_dict())
    flax.eval()
    return flax, torch
