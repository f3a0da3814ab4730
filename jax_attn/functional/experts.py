"""Feed-forward layers with a gate, stacked: each token goes through those that were chosen for it.

Two forms of one formula. Shapes: `n` tokens, `e` experts, `k` of which a token goes to, `d` width, `f` width
inside.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jax_attn.functional.activations import Activation
from jax_attn.functional.dtypes import accumulator


def masked_experts(
    x: Float[Array, "n d"],
    gate_up: Float[Array, "e d g"],
    down: Float[Array, "e f d"],
    weights: Float[Array, "n k"],
    indices: Integer[Array, "n k"],
    activation: Activation,
) -> Float[Array, "n d"]:
    """`Σ_k w_k · (activation(x W_gate) * (x W_up)) W_down`: every token through every expert, most weighted with 0.

    `gate_up` holds the columns of the gates, and then those of the ups, `g = 2f`.
    """
    wide = accumulator(x.dtype)
    chosen = jax.nn.one_hot(indices, gate_up.shape[0], dtype=wide)
    of_expert = jnp.sum(chosen * weights.astype(wide)[..., None], axis=1)
    hidden = gated(jnp.einsum("nd,edg->neg", x, gate_up), activation)
    outputs = jnp.einsum("nef,efd->ned", hidden, down)
    return jnp.einsum("ne,ned->nd", of_expert, outputs.astype(wide)).astype(x.dtype)


def grouped_experts(
    x: Float[Array, "n d"],
    gate_up: Float[Array, "e d g"],
    down: Float[Array, "e f d"],
    weights: Float[Array, "n k"],
    indices: Integer[Array, "n k"],
    activation: Activation,
) -> Float[Array, "n d"]:
    """The same with the tokens sorted by expert, so that each goes through its own only. No token is dropped.

    Source: Gale et al. (arXiv 2211.15841), whose grouped product `jax.lax.ragged_dot` is.
    """
    wide = accumulator(x.dtype)
    tokens, top_k = indices.shape
    by_expert = jnp.argsort(indices.reshape(-1), stable=True)
    sizes = jnp.bincount(indices.reshape(-1), length=gate_up.shape[0]).astype(jnp.int32)
    hidden = gated(jax.lax.ragged_dot(x[by_expert // top_k], gate_up, sizes), activation)
    outputs = jax.lax.ragged_dot(hidden, down, sizes)
    back = outputs[jnp.argsort(by_expert)].reshape(tokens, top_k, x.shape[-1])
    return jnp.sum(back.astype(wide) * weights.astype(wide)[..., None], axis=1).astype(x.dtype)


def gated(gate_up: Float[Array, "*s g"], activation: Activation) -> Float[Array, "*s f"]:
    """`activation(gate) * up`, of the two halves."""
    gate, up = jnp.split(gate_up, 2, axis=-1)
    return activation(gate) * up


EXPERTS = {"grouped": grouped_experts, "masked": masked_experts}
