"""One choice for every call of attention, whichever function it came through.

`dot_product_attention` and `flex_attention` bring their arguments to one form, a `Call`, and `attend` picks:
  reference  the oracle, by name and for empty arrays;
  xla        the whole matrix of scores, where it is small or asked for;
  ring       blocks, where a sequence's tokens are dealt out over the mesh in sight (`ring.py`);
  blockwise  everything else: blocks, or by the platform's kernels, which is decided when the call is lowered
             for a platform (`blockwise/attention.py`), never by the devices of the process that traces it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.attention import FEW_QUERIES, blockwise_attention
from jax_attn.functional.blockwise.plan import Pattern
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.dropout import given_keep_masks
from jax_attn.functional.reference import Attention
from jax_attn.functional.ring import ring_attention, ring_in_sight
from jax_attn.functional.terms import Terms

IMPLEMENTATIONS = ("blockwise", "cudnn", "pallas", "reference", "xla")
IN_RING = ("blockwise", "pallas")  # what can compute a part of the keys, and gives its log-sum-exp a gradient

# Below this many scores the whole matrix stays in the cache, and two products beat any number of blocks.
FEW_SCORES = 2**20
FEW_ROWS = 64  # a product of fewer rows takes the time to read the keys
ROWS_OF_FEW = 128  # what few queries count as
FEW_NUMBERS = (
    2**15
)  # in the keys for one query: of more, an order of their own for products costs most of the time


class Call(NamedTuple):
    """What is asked for, in one form.

    Attributes:
        query, key, value: four axes each.
        terms: what happens to the scores.
        scale: factor of the scores.
        pattern: makes the blocks to look at; called only where there are blocks.
        oracle: the same call of `reference_attention`.
        sinks: a logit for each head, or None.
        dropout_key: the random key of dropout, for masks that come from elsewhere.
        return_weights: whether the weights are asked for.
        statistics: whether the log-sum-exp or the largest score is.
    """

    query: Array
    key: Array
    value: Array
    terms: Terms
    scale: float
    pattern: Callable[[], Pattern]
    oracle: Callable[[Array | None], Attention]
    sinks: Array | None = None
    dropout_key: Array | None = None
    return_weights: bool = False
    statistics: bool = True


class Result(NamedTuple):
    """As `reference.Attention`; weights only where they are held."""

    output: Array
    weights: Array | None
    lse: Array
    max_scores: Array


def attend(call: Call, implementation: str | None) -> Result:
    """Compute a call; what the implementation does not hold, such as weights, is None.

    Raises:
        ValueError: the implementation cannot serve the call.
    """
    name = _best(call) if implementation is None else implementation
    if reason := _why_not(name, call):
        raise ValueError(f"implementation={name!r} cannot serve this call: {reason}")
    in_ring = implementation in (None, *IN_RING) and ring_in_sight(call.query, call.key) > 1
    if in_ring and (reason := _why_not("blockwise", call)):
        raise ValueError(
            f"tokens are dealt out over {ring_in_sight(call.query, call.key)} devices, and a ring of them cannot "
            f"serve this call: {reason}. implementation='xla' gathers the keys on every device"
        )
    if any(n == 0 for n in (*call.query.shape, call.key.shape[1])):  # of nothing no blocks can be made
        name = "reference"
    keep = _keep_masks(call)
    if name == "reference":
        return Result(*call.oracle(keep))
    operands = (call.query, call.key, call.value, call.terms)
    if in_ring:
        options = call.scale, None if implementation is None else name
        output, lse, peak = ring_attention(*operands, *options)
        weights = None
    elif name == "xla":
        output, lse, peak, weights = dense_attention(*operands, scale=call.scale, keep=keep)
    else:
        statistics = call.statistics or call.sinks is not None
        output, lse, peak = blockwise_attention(
            *operands, call.pattern(), call.scale, implementation, statistics
        )
        weights = None
    if call.sinks is not None:
        share, lse = _beside_sinks(lse, call.sinks)
        output = (output.astype(share.dtype) * share[..., None]).astype(output.dtype)
        if weights is not None:
            weights = (weights.astype(share.dtype) * share.swapaxes(1, 2)[..., None]).astype(weights.dtype)
    return Result(output, weights, lse, peak)


def _best(call: Call) -> str:
    """The implementation that suits the call on any platform; it looks at shapes that are known alone."""
    whole = call.return_weights or (call.terms.dropout is not None and given_keep_masks() is not None)
    return "blockwise" if has_many_scores(call.query, call.key) and not whole else "xla"


def has_many_scores(query: Float[Array, "B T N H"], key: Float[Array, "B S K H"]) -> bool:
    """Whether attention is better computed in blocks than over the whole matrix of scores.

    Where a length is not known (`jax.export` with symbolic sizes) no blocks can be planned; a batch that is not
    known counts as one.
    """
    batch, queries, heads, _ = query.shape
    keys, kv_heads, width = key.shape[1:]
    if not (isinstance(queries, int) and isinstance(keys, int)):
        return False
    batch = batch if isinstance(batch, int) else 1
    if queries == 1 and batch * keys * kv_heads * width > FEW_NUMBERS:
        return True
    rows = ROWS_OF_FEW if queries <= FEW_QUERIES else max(queries, FEW_ROWS)
    return batch * heads * rows * keys > FEW_SCORES


def _why_not(implementation: str, call: Call) -> str | None:
    if implementation not in IMPLEMENTATIONS:
        return f"it is not one of {sorted(IMPLEMENTATIONS)}"
    if implementation in ("reference", "xla"):
        return None
    if call.return_weights:
        return "it never holds the weights, which return_weights asks for"
    if call.terms.dropout is not None and given_keep_masks() is not None:
        return "it draws dropout's masks by itself, and they were given"
    return None


def _keep_masks(call: Call) -> Array | None:
    """The masks that `keep_masks_from` gives, or None."""
    draw, dropout = given_keep_masks(), call.terms.dropout
    if draw is None or dropout is None or call.dropout_key is None or dropout.rate == 1:
        return None
    (batch, queries, heads, _), keys = call.query.shape, call.key.shape[1]
    return draw(call.dropout_key, 1 - dropout.rate, (batch, heads, queries, keys))


def _beside_sinks(lse: Float[Array, "B T N"], sinks: Float[Array, "N"]) -> tuple[Array, Array]:
    """What the sinks leave of the softmax, `exp(lse - lse')`, and `lse' = log(exp(lse) + exp(sinks))`."""
    sinks = sinks.astype(lse.dtype)[None, None]
    closed = lse == -jnp.inf  # a row that may attend to nothing: all goes to the sink
    safe = jnp.where(closed, 0, lse)
    share = jnp.where(closed, 0, jax.nn.sigmoid(safe - sinks))
    return share, jnp.where(closed, sinks, jnp.logaddexp(safe, sinks))
