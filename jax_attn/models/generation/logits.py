"""What is done to the scores of the next token before one is chosen: functions of arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Number = float | Float[Array, ""]


def penalize_repetition(
    logits: Float[Array, "*b v"], seen: Bool[Array, "*b v"], penalty: Number
) -> Float[Array, "*b v"]:
    """Divide the logits of tokens that were seen by `penalty` where they are positive, multiply where negative.

    Args:
        logits: `(..., vocab_size)`.
        seen: of that shape, which tokens stand in the text already.
        penalty: above 1 against repetition, below 1 for it.

    Source: Keskar et al. (arXiv 1909.05858), section 4.1; transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Array, "*b v"], k: int) -> Float[Array, "*b v"]:
    """Leave the `k` largest logits, and what equals the last of them; the others become -inf.

    Source: Fan et al. (arXiv 1805.04833), section 5.4; transformers' `TopKLogitsWarper`.
    """
    largest, _ = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return jnp.where(logits < largest[..., -1:], -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*b v"], p: Number) -> Float[Array, "*b v"]:
    """Leave the fewest tokens whose probabilities add up to `p` or more, one at least; the others become -inf.

    Of tokens with equal logits, at the bound, those with larger ids stay.

    Source: Holtzman et al. (arXiv 1904.09751), section 3.1; transformers' `TopPLogitsWarper`.
    """
    order = jnp.argsort(logits, axis=-1)  # from the least likely
    up_to = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1), axis=-1)
    dropped = (up_to <= 1 - p).at[..., -1].set(False)
    return jnp.where(jnp.take_along_axis(dropped, jnp.argsort(order, axis=-1), axis=-1), -jnp.inf, logits)


def keep_min_p(logits: Float[Array, "*b v"], p: Number) -> Float[Array, "*b v"]:
    """Leave the tokens that are at least `p` times as likely as the likeliest; the others become -inf.

    Source: Nguyen et al. (arXiv 2407.01082); transformers' `MinPLogitsWarper`.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    largest = jnp.max(probabilities, axis=-1, keepdims=True)
    # In the largest there is no rounding: it stays where p is 1.
    return jnp.where(probabilities < p * largest, -jnp.inf, logits)
