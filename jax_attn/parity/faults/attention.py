"""Faults of attention.

Whatever a module writes its attention in (products, einsums, torch's fused functions), it multiplies queries
with keys, hides some of the scores, takes a softmax, and multiplies the weights with values. A fault changes
one of these five points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax_attn.parity.faults.fault import Fault
from jax_attn.parity.faults.planting import PASS, Acts, Forward, is_attention, watch
from jax_attn.parity.torch_attention import attention_written_out

PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum")
SUMS = ("add", "__add__", "__radd__")


@dataclass(frozen=True)
class Points:
    """What happens at the points of attention; None is what ought to.

    Attributes:
        scores: `(forward, queries, keys transposed, product)` to scores.
        hide: `(forward, scores, hidden, fill)` to scores; `hidden` is a boolean mask.
        softmax: `(forward, scores, dim)` to weights.
        rezero: `(forward, weights, hidden)` to weights: where nothing may be seen, the softmax is no zero.
        mix: `(forward, weights, values)` to context.
    """

    scores: Callable[..., Any] | None = None
    hide: Callable[..., Any] | None = None
    softmax: Callable[..., Any] | None = None
    rezero: Callable[..., Any] | None = None
    mix: Callable[..., Any] | None = None

    def __call__(
        self, forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See what a torch function is to attention, and act there. What comes of it is remembered."""
        if name == "scaled_dot_product_attention":
            with forward.mode:
                return attention_written_out(*args, **kwargs)
        scores, weights = _known(forward, "scores"), _known(forward, "weights")
        tensors = [value for value in (*args, *kwargs.values()) if hasattr(value, "shape")]
        from_scores = any(id(t) in scores for t in tensors)
        from_weights = any(id(t) in weights for t in tensors)
        if name in PRODUCTS and from_weights:
            return self._mixed(forward, function, args, kwargs)
        if name in PRODUCTS and not from_scores and _are_activations(tensors):
            value = self._scored(forward, name, function, args, kwargs)
            scores[id(value)] = value
            return value
        if name == "softmax" and tensors:
            value = self._soft(forward, function, args, kwargs)
            weights[id(value)] = value
            return value
        value: Any = PASS
        if from_scores:
            value = self._hidden(forward, name, args, kwargs)
        elif from_weights and name.startswith("masked_fill") and self.rezero:
            value = self.rezero(forward, args[0], args[1])
        if (from_scores or from_weights) and tensors:
            value = function(*args, **kwargs) if value is PASS else value
            if _is_like(value, tensors[0]):
                (scores if from_scores else weights)[id(value)] = value
        return value

    def _scored(self, forward: Forward, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        if name == "baddbmm":  # a mask and a product at once
            mask, left, right = args[:3]
            product = left @ right
            product = self.scores(forward, left, right, product) if self.scores else product
            return self._masked(forward, product, mask)
        product = function(*args, **kwargs)
        left, right = args[1:3] if name == "einsum" else args[:2]
        return self.scores(forward, left, right, product) if self.scores else product

    def _soft(self, forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
        if self.softmax is None:
            return function(*args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return self.softmax(forward, args[0], dim)

    def _mixed(self, forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
        if self.mix is None or not hasattr(args[0], "shape"):
            return function(*args, **kwargs)
        return self.mix(forward, *args[:2])

    def _hidden(self, forward: Forward, name: str, args: Any, kwargs: Any) -> Any:
        """Every way to hide scores, as one."""
        if self.hide is None:
            return PASS
        if name.startswith("masked_fill") and len(args) > 2 and _is_low(args[2]):
            return self.hide(forward, args[0], args[1], args[2])
        if name == "where" and len(args) > 2 and _is_low(args[2]):
            return self.hide(forward, args[1], ~args[0], -math.inf)
        if name in SUMS and all(hasattr(value, "shape") for value in args[:2]):
            known = _known(forward, "scores")
            scores, mask = args[:2] if id(args[0]) in known else (args[1], args[0])
            if (mask < -1e3).any():
                return self._masked(forward, scores, mask)
        return PASS

    def _masked(self, forward: Forward, scores: Any, mask: Any) -> Any:
        """A mask to be added, some of which hides."""
        hidden = mask < -1e3
        if self.hide is None or not hidden.any():
            return scores + mask
        return self.hide(forward, scores + mask.masked_fill(hidden, 0.0), hidden, -math.inf)


def _known(forward: Forward, what: str) -> dict[int, Any]:
    """Tensors by their identity: they are kept, lest another take their place."""
    return forward.state.setdefault(what, {})


def _are_activations(tensors: list[Any]) -> bool:
    import torch

    return (
        len(tensors) > 1
        and min(t.ndim for t in tensors) > 1
        and not any(isinstance(t, torch.nn.Parameter) for t in tensors)
    )


def _is_like(value: Any, tensor: Any) -> bool:
    """Whether a value is a floating tensor with the same last axis."""
    import torch

    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return floating and value.shape[-1:] == tensor.shape[-1:]


def _is_low(fill: Any) -> bool:
    """Whether a number, or a tensor of them, is what hides a score."""
    return bool((fill < -1e3).all()) if hasattr(fill, "all") else fill < -1e3


# The faults.


def scaled(word: str, factor: Callable[[int, int], float]) -> Points:
    """Scores times `factor(heads, head_dim)`."""

    def scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
        apart = _heads_apart(forward, queries)
        heads = 1 if apart is None else apart.shape[-3]
        times = factor(heads, queries.shape[-1])
        if times == 1.0:
            return product
        forward.acts.add(word, "scores / sqrt(head_dim)")
        return product * times

    return Points(scores=scores)


def _heads_apart(forward: Forward, x: Any) -> Any | None:
    """`(b, n, t, h)`, also of torch's own `(b n, t, h)`; None where there are no heads, or one."""
    import torch

    if x.ndim == 3:
        known = {
            child.num_heads
            for child in forward.module.modules()
            if isinstance(child, torch.nn.MultiheadAttention)
        }
        if len(known) != 1 or x.shape[0] % max(known):
            return None
        x = x.unflatten(0, (-1, max(known)))
    return x if x.ndim == 4 and x.shape[-3] > 1 else None


def swapped(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
    """Keys by queries."""
    if product.shape[-1] != product.shape[-2]:
        return product
    forward.acts.add("k qᵀ", "q kᵀ")
    return product.mT


def other_heads(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
    """The first head of the queries meets the last of the keys."""
    apart = _heads_apart(forward, queries), _heads_apart(forward, keys)
    if apart[0] is None or apart[1] is None or apart[0].shape[-3] != apart[1].shape[-3]:
        return product
    forward.acts.add("heads of q in the opposite order", "in the order of k's")
    return (apart[0].flip(-3) @ apart[1]).view_as(product)


def _interleaved(x: Any) -> Any:
    """Heads of neighbouring features, `(b, n, t, h)`, as heads of every n-th feature."""
    heads, width = x.shape[-3], x.shape[-1]
    together = x.transpose(-3, -2).flatten(-2)
    return together.unflatten(-1, (width, heads)).movedim(-1, -3)


def interleaved_scores(forward: Forward, queries: Any, keys: Any, product: Any) -> Any:
    """Queries and keys split by every n-th feature."""
    apart = _heads_apart(forward, queries), _heads_apart(forward, keys)
    if apart[0] is None or apart[1] is None or keys.shape[-1] != product.shape[-1]:
        return product
    forward.acts.add("a head is every n-th feature", "a head is neighbouring features")
    return (_interleaved(apart[0]) @ _interleaved(apart[1].mT).mT).view_as(product)


def interleaved_values(forward: Forward, weights: Any, values: Any) -> Any:
    """Values split by every n-th feature."""
    apart = _heads_apart(forward, values)
    if apart is None:
        return weights @ values
    context = _heads_apart(forward, weights) @ _interleaved(apart)
    return context.reshape(*values.shape[:-2], *context.shape[-2:])


def hidden_otherwise(
    faulty: str, right: str, other: Callable[[Any], Any | None], empty_row: str = "zero"
) -> Points:
    """`other(hidden)` is hidden; a row that then sees nothing comes to "zero", or to the "mean".

    `other` gives None where the fault does not apply.
    """

    def hide(forward: Forward, scores: Any, hidden: Any, fill: Any) -> Any:
        import torch

        instead = other(hidden)
        if instead is None:
            return scores.masked_fill(hidden, fill)
        forward.acts.add(faulty, right)
        forward.state["hidden"] = forward.state["not yet zero"] = instead
        return scores.masked_fill(instead, torch.finfo(scores.dtype).min)

    def softmax(forward: Forward, scores: Any, dim: Any) -> Any:
        hidden = forward.state.pop("not yet zero", None)
        weights = scores.softmax(dim)
        return weights if hidden is None or empty_row == "mean" else weights.masked_fill(hidden, 0.0)

    def rezero(forward: Forward, weights: Any, hidden: Any) -> Any:
        return weights if "hidden" in forward.state else weights.masked_fill(hidden, 0.0)

    return Points(hide=hide, softmax=softmax, rezero=rezero)


def without_itself(hidden: Any) -> Any | None:
    """The mask, and the token itself."""
    import torch

    tokens = hidden.shape[-1]
    if hidden.shape[-2] != tokens:
        return None
    return hidden | torch.eye(tokens, dtype=torch.bool, device=hidden.device)


def one_key_more(hidden: Any) -> Any:
    """The mask, a key off."""
    first = hidden.clone()
    first[..., 1:] = False
    return hidden & hidden.roll(1, -1) | first


def left_alone(forward: Forward, weights: Any, hidden: Any) -> Any:
    """A row without a key keeps what the softmax made of it."""
    return weights


def ignored(forward: Forward, scores: Any, hidden: Any, fill: Any) -> Any:
    """No mask."""
    forward.acts.add("no mask", "a mask")
    return scores


def added(amount: float) -> Callable[..., Any]:
    """A number is added where -inf should be."""

    def hide(forward: Forward, scores: Any, hidden: Any, fill: Any) -> Any:
        forward.acts.add(f"{amount:g} is added to masked scores", "-inf is put there")
        return scores + hidden.to(scores.dtype) * amount

    return hide


def filled(forward: Forward, scores: Any, hidden: Any, fill: Any) -> Any:
    """The lowest number where -inf should be: a row without a key is a mean of all values."""
    import torch

    forward.acts.add("a fully masked row is the mean of all values", "it is 0")
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def wrong_axis(forward: Forward, scores: Any, dim: Any) -> Any:
    """Softmax over the queries."""
    forward.acts.add("softmax over the queries", "softmax over the keys")
    return scores.softmax(-2 if dim in (-1, scores.ndim - 1) else -1)


def narrow_softmax(forward: Forward, scores: Any, dim: Any) -> Any:
    """Softmax in float32 where more is asked for."""
    forward.acts.add("softmax in float32", f"softmax in {str(scores.dtype).removeprefix('torch.')}")
    return scores.float().softmax(dim).to(scores.dtype)


def one_to_spare(forward: Forward, scores: Any, dim: Any) -> Any:
    """A softmax with one more key of score 0."""
    import torch

    forward.acts.add("softmax with 1 added to the sum", "softmax")
    return (
        torch.cat([scores, torch.zeros_like(scores.narrow(dim, 0, 1))], dim)
        .softmax(dim)
        .narrow(dim, 0, scores.shape[dim])
    )


def _fault(
    name: str,
    summary: str,
    setting: str,
    points: Points,
    *pitfalls: int,
    fits: Callable[[Any], bool] | None = None,
) -> Fault:
    return Fault(name, summary, "attention", setting, fits or is_attention, partial(_watch, points), pitfalls)


def _watch(points: Points, module: Any, acts: Acts) -> None:
    watch(module, points, acts)


MASK = "mask"
SCALE = "scale"
INVERTED = "True = masked", "True = attend", lambda hidden: ~hidden
NOT_ITSELF = "a token does not see itself", "a token sees itself", without_itself

ATTENTION = [
    _fault("scale-missing", "scores are not divided by sqrt(head_dim)", SCALE,
           scaled("scores as they are", lambda heads, width: width**0.5), 26),
    _fault("scale-twice", "scores divided by head_dim: the scale is applied twice", SCALE,
           scaled("scores / head_dim", lambda heads, width: width**-0.5), 26),
    _fault("scale-by-width", "scores divided by sqrt(embed_dim), all heads' width", SCALE,
           scaled("scores / sqrt(embed_dim)", lambda heads, width: heads**-0.5), 26),
    _fault("swapped-qk", "queries and keys are swapped", "queries and keys", Points(scores=swapped), 13),
    _fault("heads-order", "heads of the queries in another order than those of the keys", "heads",
           Points(scores=other_heads), 13),
    _fault("heads-interleaved", "the width is split into heads by every n-th feature", "heads",
           Points(scores=interleaved_scores, mix=interleaved_values), 13, 20),
    _fault("mask-inverted", "True = attend is taken for True = masked", MASK,
           hidden_otherwise(*INVERTED), 18),
    _fault("mask-inverted-mean", "the same, and a row that then sees nothing is the mean of all values", MASK,
           hidden_otherwise(*INVERTED, "mean"), 18, 19),
    _fault("mask-missing", "the mask, causal or given, is not applied", MASK,
           Points(hide=ignored, rezero=left_alone), 18),
    _fault("mask-one-more", "each query sees one key more", MASK,
           hidden_otherwise("one key more is seen", "the mask's keys", one_key_more), 25),
    _fault("mask-not-itself", "a token does not see itself", MASK, hidden_otherwise(*NOT_ITSELF), 25),
    _fault("mask-not-itself-mean", "the same, and a row that then sees nothing is the mean of all values",
           MASK, hidden_otherwise(*NOT_ITSELF, "mean"), 25, 19),
    _fault("mask-adds-1e4", "-1e4 is added in place of -inf", MASK,
           Points(hide=added(-1e4), rezero=left_alone), 19),
    _fault("mask-adds-1e9", "-1e9 is added in place of -inf", MASK,
           Points(hide=added(-1e9), rezero=left_alone), 19),
    _fault("empty-row-mean", "a fully masked row gives the mean of all values, not 0", MASK,
           Points(hide=filled, rezero=left_alone), 19),
    _fault("softmax-axis", "softmax over the queries", "softmax", Points(softmax=wrong_axis)),
    _fault("softmax-float32", "softmax in float32 inside a float64 model", "softmax",
           Points(softmax=narrow_softmax), 21),
    _fault("softmax-plus-one", "softmax with 1 added to its sum", "softmax", Points(softmax=one_to_spare)),
]  # fmt: skip
