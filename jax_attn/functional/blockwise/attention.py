"""Attention in tiles, with the softmax carried along: memory linear in the length, and fast on CPU.

The forward pass keeps a running maximum and sum for each query (online softmax) and saves the output and
the log-sum-exp alone. The backward pass computes each tile of scores again. Heads are taken in small groups,
so that a group's tiles stay in the processor's cache.

Source: Rabe and Staats (arXiv 2112.05682); FlashAttention-2 (2307.08691), algorithms 1 and 2.
"""

from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.backward import backward
from jax_attn.functional.blockwise.forward import forward
from jax_attn.functional.blockwise.plan import Plans
from jax_attn.functional.blockwise.tiles import Layout
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.terms import Terms, join, split

Outputs = tuple[Array, Array, Array]  # output, log-sum-exp, largest score


@partial(jax.jit, static_argnames="layout")
def blockwise_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    plans: Plans,
    layout: Layout,
) -> Outputs:
    """Output `(B, T, N, Hv)`, log-sum-exp and largest score `(B, T, N)`; the latter has no gradient."""
    moving, still = split(terms)
    return _attention(layout, query, key, value, moving, still, plans)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    layout: Layout, query: Array, key: Array, value: Array, moving: Any, still: Terms, plans: Plans
) -> Outputs:
    return forward(layout, plans.forward, query, key, value, join(moving, still))


def _attention_fwd(
    layout: Layout, query: Array, key: Array, value: Array, moving: Any, still: Terms, plans: Plans
) -> Any:
    # Through `_attention`, not `forward`: what is saved has to be differentiable for the second derivative.
    output, lse, max_scores = _attention(layout, query, key, value, moving, still, plans)
    return (output, lse, max_scores), (query, key, value, moving, still, plans, output, lse)


def _attention_bwd(layout: Layout, saved: Any, cotangents: Outputs) -> Any:
    query, key, value, moving, still, plans, output, lse = saved
    d_output, d_lse, _ = cotangents
    gradients = _gradient(layout, query, key, value, moving, d_output, d_lse, still, plans, output, lse)
    return (*gradients, None, None)


_attention.defvjp(_attention_fwd, _attention_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient(
    layout: Layout,
    query: Array,
    key: Array,
    value: Array,
    moving: Any,
    d_output: Array,
    d_lse: Array,
    still: Terms,
    plans: Plans,
    output: Array,
    lse: Array,
) -> tuple[Any, ...]:
    """The gradient of query, key, value and moving terms."""
    return backward(
        layout, plans.backward, query, key, value, join(moving, still), output, lse, d_output, d_lse
    )


def _gradient_fwd(layout: Layout, *args: Any) -> tuple[Any, Any]:
    return _gradient(layout, *args), args[:7]


def _gradient_bwd(layout: Layout, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    """The second derivative, over the whole matrix of scores: right, but not lean."""
    *moved, still = saved

    def attention(query: Array, key: Array, value: Array, moving: Any) -> tuple[Array, Array]:
        result = dense_attention(query, key, value, join(moving, still), scale=layout.scale)
        return result.output, result.lse

    def gradient(query: Array, key: Array, value: Array, moving: Any, *cotangents: Array) -> Any:
        return jax.vjp(attention, query, key, value, moving)[1](cotangents)

    return (*jax.vjp(gradient, *moved)[1](cotangents), None, None, None, None)


_gradient.defvjp(_gradient_fwd, _gradient_bwd)
