"""Scaled dot-product attention: ours, torch's fused kernel, JAX's own, and the matrix products alone."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import torch_side
from benchmarks.cases import Case, Shape
from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender, compiled, jitted
from benchmarks.products import products, products_and_gradients
from jax_attn.functional import dot_product_attention

OURS, SDPA, JAX_NN, PRODUCTS = "jax-attn", "torch SDPA", "jax.nn", "products alone"
NAMES = (OURS, SDPA, JAX_NN, PRODUCTS)


def bench_attention(cases: Sequence[Case], *, rounds: int = 7) -> Iterator[Comparison]:
    """Time attention on random numbers, case by case; each case is timed `rounds` times."""
    for case in cases:
        yield contest(str(case), contenders(case), rounds=rounds, dtype=case.dtype, facts=facts(case))


def facts(case: Case) -> dict[str, Any]:
    """What a case is, for the figures on disk and the charts."""
    batch, tokens, heads, head_dim = case.shape
    sizes = {"batch": batch, "tokens": tokens, "keys": case.num_keys, "heads": heads, "head_dim": head_dim}
    return {**sizes, "mask": case.mask, "dtype": case.dtype, "passes": case.passes}


def random_operands(shape: Shape, dtype: str, count: int = 3, keys: int | None = None) -> list[jax.Array]:
    """That many arrays `(B, T, N, H)` from N(0, 1); the second and third have `keys` positions."""
    rng = np.random.default_rng(0)
    sizes = [shape if keys is None or i not in (1, 2) else shape._replace(tokens=keys) for i in range(count)]
    return [jnp.asarray(rng.standard_normal(size, np.float32), dtype) for size in sizes]


def contenders(case: Case) -> dict[str, Contender]:
    """Everyone who computes a case. Where gradients are asked for, all are compared."""
    import torch

    *operands, cotangent = random_operands(case.shape, case.dtype, 4, case.keys)
    *tensors, downstream = (torch_side.heads_first(x, case.dtype) for x in (*operands, cotangent))
    options: dict[str, Any] = {"is_causal": case.mask == "causal"}
    torch_options = dict(options)
    if case.mask == "padded":
        lengths = np.linspace(case.num_keys // 2, case.num_keys, case.shape.batch).astype(np.int32)
        options["key_value_seq_lengths"] = jnp.asarray(lengths)
        seen = torch.from_numpy(np.arange(case.num_keys) < lengths[:, None]).to(torch_side.device())
        torch_options["attn_mask"] = seen[:, None, None]
    if not case.backward:
        cotangent = downstream = None
    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, **torch_options)
    return {
        OURS: jitted(partial(dot_product_attention, **options), *operands, cotangent=cotangent),
        SDPA: torch_side.eager(sdpa, *tensors, cotangent=downstream, back=lambda x: x.transpose(1, 2)),
        JAX_NN: jitted(partial(jax.nn.dot_product_attention, **options), *operands, cotangent=cotangent),
        PRODUCTS: _products(case, operands, cotangent),
    }


def _products(case: Case, operands: Sequence[jax.Array], cotangent: jax.Array | None) -> Contender:
    """Not compared: it computes no attention."""
    function: Callable[..., Any] = products if cotangent is None else products_and_gradients
    given = operands if cotangent is None else (cotangent, *operands)
    return compiled(partial(function, causal=case.mask == "causal"), *given)
