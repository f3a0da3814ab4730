"""Scaled dot-product attention: ours, torch's fused kernel, and JAX's own."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import torch_side
from benchmarks.comparison import Comparison, Contender, contest, jitted
from jax_attn.functional.attention import dot_product_attention

NAMES = ("jax-attn", "torch SDPA", "jax.nn")


class Shape(NamedTuple):
    """Sizes of queries, keys and values: batch, tokens, heads, width of a head."""

    batch: int
    tokens: int
    heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"B{self.batch} N{self.heads} T{self.tokens} H{self.head_dim}"


class Case(NamedTuple):
    """What is measured: a shape, forward alone or with the backward pass."""

    shape: Shape
    backward: bool


CASES = (
    Case(Shape(2, 1024, 12, 64), backward=False),
    Case(Shape(1, 4096, 12, 64), backward=False),
    Case(Shape(1, 2048, 12, 64), backward=True),
    Case(Shape(1, 4096, 8, 64), backward=True),
)


def bench_attention(
    cases: Sequence[Case] = CASES, *, causal: bool = True, dtype: str = "float32", rounds: int = 7
) -> Iterator[Comparison]:
    """Time attention on random numbers, case by case.

    Args:
        cases: the shapes, and whether with the backward pass.
        causal: whether a query sees only the keys up to its own position.
        dtype: of queries, keys and values.
        rounds: how often each contender is timed.
    """
    for case in cases:
        mask = "causal" if causal else "full"
        passes = "forward+backward" if case.backward else "forward"
        yield contest(
            f"{case.shape} {mask}, {passes}", _contenders(case, causal, dtype), rounds=rounds, dtype=dtype
        )


def random_operands(shape: Shape, dtype: str, count: int = 3) -> list[jax.Array]:
    """That many arrays `(B, T, N, H)` from N(0, 1)."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for _ in range(count)]


def _contenders(case: Case, causal: bool, dtype: str) -> dict[str, Contender]:
    import torch

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return dot_product_attention(q, k, v, is_causal=causal)

    def jax_nn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal)

    def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    *operands, cotangent = random_operands(case.shape, dtype, count=4)
    *tensors, downstream = (torch_side.heads_first(x, dtype) for x in (*operands, cotangent))
    if not case.backward:
        cotangent = downstream = None
    contenders = (
        jitted(ours, *operands, cotangent=cotangent),
        torch_side.eager(sdpa, *tensors, cotangent=downstream, back=lambda x: x.transpose(1, 2)),
        jitted(jax_nn, *operands, cotangent=cotangent),
    )
    return dict(zip(NAMES, contenders, strict=True))
