"""Which experts a token goes to, and the losses that keep a router in order.

Shapes: `e` experts, `k` of which a token goes to. Tokens that a mask leaves out go to no expert and count in no
loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jax_attn.functional.checks import require_known

SOFTMAXES = ("after", "before")


def choose_experts(
    logits: Float[Array, "*t e"], top_k: int, softmax: str = "after"
) -> tuple[Float[Array, "*t k"], Integer[Array, "*t k"]]:
    """Return the `top_k` experts with the largest logits, and the weight of each.

    Args:
        logits: scores of the router.
        top_k: number of experts for each token.
        softmax: "after" the choice, over the chosen logits, so that weights add up to 1 (which is what dividing the
            chosen probabilities by their sum gives); or "before" it, over all logits.

    Returns:
        Weights and indices, the largest first.
    """
    require_known("softmax", softmax, SOFTMAXES)
    if softmax == "before":
        weights, indices = jax.lax.top_k(jax.nn.softmax(logits), top_k)
        return weights, indices
    chosen, indices = jax.lax.top_k(logits, top_k)
    return jax.nn.softmax(chosen), indices


def within_capacity(
    indices: Integer[Array, "*b t k"],
    num_experts: int,
    capacity: int,
    mask: Bool[Array, "*b t"] | None = None,
) -> Bool[Array, "*b t k"]:
    """Whether each choice is among the first `capacity` of its expert in its sequence.

    First choices go before second ones, and earlier tokens before later ones.

    Source: Lepikhin et al. (arXiv 2006.16668), algorithm 1; Fedus et al. (arXiv 2101.03961), section 2.2.
    """
    *batch, tokens, top_k = indices.shape
    chosen = jax.nn.one_hot(indices, num_experts, dtype=jnp.int32)
    if mask is not None:
        chosen = jnp.where(mask[..., None, None], chosen, 0)
    in_turn = jnp.swapaxes(chosen, -2, -3).reshape(*batch, top_k * tokens, num_experts)
    turn = jnp.sum(jnp.cumsum(in_turn, axis=-2) * in_turn, axis=-1)
    return jnp.swapaxes(turn.reshape(*batch, top_k, tokens) <= capacity, -1, -2)


def load_balance_loss(
    logits: Float[Array, "*t e"], indices: Integer[Array, "*t k"], mask: Bool[Array, "*t"] | None = None
) -> Float[Array, ""]:
    """`e · Σ f · p`, of the part `f` of the tokens that went to an expert and its mean probability `p`.

    `k`, the number of experts of a token, where all experts get as many tokens; more where they do not. Only `p`
    is differentiable.

    Source: Fedus et al. (arXiv 2101.03961), equations 4 to 6; over all choices, as transformers has it.
    """
    num_experts = logits.shape[-1]
    went = jnp.sum(jax.nn.one_hot(indices, num_experts, dtype=logits.dtype), axis=-2)
    parts, probabilities = mean_of_tokens(went, mask), mean_of_tokens(jax.nn.softmax(logits), mask)
    return num_experts * jnp.sum(parts * probabilities)


def router_z_loss(logits: Float[Array, "*t e"], mask: Bool[Array, "*t"] | None = None) -> Float[Array, ""]:
    """The mean of `log(Σ exp(logits))²`: it keeps logits small, where rounding them changes little.

    Source: Zoph et al. (arXiv 2202.08906), equation 5.
    """
    return mean_of_tokens(jax.nn.logsumexp(logits, axis=-1, keepdims=True) ** 2, mask)[0]


def mean_of_tokens(values: Float[Array, "*t e"], mask: Bool[Array, "*t"] | None) -> Float[Array, " e"]:
    """The mean over all tokens, or over those of the mask; 0 where there are none."""
    kept = jnp.ones(values.shape[:-1], bool) if mask is None else mask
    axes = tuple(range(values.ndim - 1))
    count = jnp.maximum(jnp.sum(kept, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(kept[..., None], values, 0), axis=axes) / count
