"""torch's losses, with the classes on the last axis: logits are `(..., C)` where torch has `(N, C, ...)`.

16-bit inputs are computed in float32, and the loss comes back in their dtype. `reduction` is "mean", "sum" or
"none"; the mean of nothing is NaN, as in torch: so a batch in which every label is ignored has a loss and
gradients of NaN. Where that can happen, take "sum" and divide by `max(1, number of labels that count)`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(
    logits: Float[Array, "*rows C"],
    labels: Int[Array, "*rows"] | Float[Array, "*rows C"],
    weight: Float[Array, "C"] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """The cross-entropy between softmax(logits) and labels, which are class numbers or probabilities.

    `loss = -Σ_c weight_c t_c log softmax(logits)_c`, with target probabilities `t` (one-hot for a class
    number) that are smoothed to `(1 - ε) t + ε / C`. For class numbers `y`, "mean" divides by `Σ weight_y`
    over the rows that are not ignored. For probabilities it divides by the number of rows, and nothing is
    ignored.

    Args:
        logits: `(..., C)`.
        labels: `(...)` integers, or `(..., C)` floats. A number that is no class and not `ignore_index`
            gives a loss of NaN, where torch raises.
        weight: one factor a class.
        ignore_index: rows with this label count nothing, and have a loss of 0 with "none".
        label_smoothing: ε.
        reduction: over rows.

    Raises:
        ValueError: shapes that do not go together, a smoothing that is not in [0, 1], or an unknown
            reduction.

    Source: `torch.nn.functional.cross_entropy`.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0 and 1, got label_smoothing={label_smoothing}")
    log_probs = jax.nn.log_softmax(_wide(logits))
    classes = logits.shape[-1]
    weights = _class_weights(weight, log_probs)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        _require_same_shape("logits", logits, "labels", labels)
        target = labels * (1.0 - label_smoothing) + label_smoothing / classes
        losses = -jnp.sum(weights * target * log_probs, axis=-1)
        return _reduce(losses, losses.size, reduction).astype(logits.dtype)

    losses, counts = _negative_log_likelihood(log_probs, labels, weights, ignore_index)
    if label_smoothing:
        spread = jnp.where(labels == ignore_index, 0.0, -jnp.sum(weights * log_probs, axis=-1))
        losses = (1.0 - label_smoothing) * losses + label_smoothing / classes * spread
    return _reduce(losses, jnp.sum(counts), reduction).astype(logits.dtype)


def nll_loss(
    log_probs: Float[Array, "*rows C"],
    labels: Int[Array, "*rows"],
    weight: Float[Array, "C"] | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """`-weight_y · log_probs_y`; the arguments are those of `cross_entropy`, after the log-softmax.

    Source: `torch.nn.functional.nll_loss`.
    """
    wide = _wide(log_probs)
    losses, counts = _negative_log_likelihood(wide, labels, _class_weights(weight, wide), ignore_index)
    return _reduce(losses, jnp.sum(counts), reduction).astype(log_probs.dtype)


def binary_cross_entropy_with_logits(
    logits: Float[Array, "*shape"],
    labels: Float[Array, "*shape"],
    weight: Float[Array, "..."] | None = None,
    reduction: Reduction = "mean",
    pos_weight: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """`-weight · (pos_weight · y · log σ(x) + (1 - y) · log(1 - σ(x)))`, safe for logits of any size.

    Args:
        logits: any shape.
        labels: probabilities of the same shape.
        weight: a factor for every element; broadcasts.
        reduction: over all elements. Weights do not change what the mean divides by.
        pos_weight: a factor for the positive part, one a class; broadcasts.

    Raises:
        ValueError: labels of another shape than logits, or an unknown reduction.

    Source: `torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    _require_same_shape("logits", logits, "labels", labels)
    x = _wide(logits)
    positive = labels if pos_weight is None else pos_weight * labels
    losses = -positive * jax.nn.log_sigmoid(x) - (1.0 - labels) * jax.nn.log_sigmoid(-x)
    if weight is not None:
        losses = weight * losses
    return _reduce(losses, losses.size, reduction).astype(logits.dtype)


def mse_loss(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"], reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """`(predictions - targets)²`. (`optax.l2_loss` is half of it.)

    Raises:
        ValueError: shapes that differ, which torch broadcasts with a warning, or an unknown reduction.

    Source: `torch.nn.functional.mse_loss`.
    """
    _require_same_shape("predictions", predictions, "targets", targets)
    losses = jnp.square(_wide(predictions) - _wide(targets))
    return _reduce(losses, losses.size, reduction).astype(jnp.result_type(predictions, targets))


def _negative_log_likelihood(
    log_probs: Array, labels: Array, weights: Array, ignore_index: int
) -> tuple[Array, Array]:
    """Every row's loss, and its share in what a mean divides by."""
    rows = log_probs.shape[:-1]
    if labels.shape != rows or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {rows}, got {labels.dtype} of shape {labels.shape}"
        )
    counts = labels != ignore_index
    a_class = (labels >= 0) & (labels < log_probs.shape[-1])  # indexing would wrap -1 round to the last class
    index = jnp.where(a_class, labels, 0)
    # Compared, not looked up: the gradient of a look-up is a scatter into as many zeros as there are scores, which
    # stays apart from the softmax's, and on a mesh the classes may be shared out.
    chosen = jnp.arange(log_probs.shape[-1]) == index[..., None]
    losses = -jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1) * weights[index]
    losses = jnp.where(counts, jnp.where(a_class, losses, jnp.nan), 0.0)
    return losses, jnp.where(counts, weights[index], 0.0)


def _class_weights(weight: Array | None, log_probs: Array) -> Array:
    classes = log_probs.shape[-1]
    if weight is None:
        return jnp.ones(classes, log_probs.dtype)
    if weight.shape != (classes,):
        raise ValueError(f"weight must have shape ({classes},), one factor a class, got {weight.shape}")
    return weight.astype(log_probs.dtype)


def _reduce(losses: Array, count: Array | int, reduction: str) -> Array:
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    total = jnp.sum(losses)
    return total / count if reduction == "mean" else total


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _require_same_shape(name: str, x: Array, other_name: str, other: Array) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{other_name} must have the shape of {name}, {x.shape}, got {other.shape}")
