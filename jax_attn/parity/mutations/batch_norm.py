"""Mutations of batch normalisation, most of which only training shows: in what it leaves behind."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import Hits, wrap
from jax_attn.parity.mutations.mutation import Mutation


def _batch_norms(module: Any) -> list[Any]:
    """Those that keep running statistics, with a fixed momentum."""
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    found = [child for child in module.modules() if isinstance(child, kind)]
    return [norm for norm in found if norm.track_running_stats and norm.momentum is not None]


def has_batch_norm(module: Any) -> bool:
    """Whether there is one."""
    return bool(_batch_norms(module))


def momentum(other: Callable[[float], float]) -> Callable[[Any, Hits], None]:
    """Torch's momentum is the share of the new statistics: it becomes `other(it)`."""

    def injector(module: Any, hits: Hits) -> None:
        for norm in _batch_norms(module):
            share = other(norm.momentum)
            if share != norm.momentum:
                hits.add(f"{share:g} of what is new", f"{norm.momentum:g} of it")
                norm.momentum = share

    return injector


def biased_variance(module: Any, hits: Hits) -> None:
    """What is new of the running variance is over n, not over n - 1."""

    def around(norm: Any, forward: Any, x: Any) -> Any:
        old = norm.running_var.clone()
        y = forward(x)
        if norm.training:
            hits.add("running variance over n", "over n - 1")
            n = x.numel() / x.shape[1]
            kept = (1 - norm.momentum) * old
            norm.running_var.data.copy_(kept + (norm.running_var - kept) * (n - 1) / n)
        return y

    for norm in _batch_norms(module):
        wrap(norm, around)


def statistics(in_training: bool) -> Callable[[Any, Hits], None]:
    """The batch's own statistics in evaluation; or in training the running ones, which stay as they are."""
    words = ("the running statistics", "the batch's")

    def around(norm: Any, forward: Any, x: Any, hits: Hits) -> Any:
        if norm.training != in_training:
            return forward(x)
        hits.add(*(words if in_training else words[::-1]))
        from torch.nn import functional as F

        running = (norm.running_mean, norm.running_var) if in_training else (None, None)
        return F.batch_norm(x, *running, norm.weight, norm.bias, not in_training, 0.0, norm.eps)

    def injector(module: Any, hits: Hits) -> None:
        for norm in _batch_norms(module):
            wrap(norm, lambda norm, forward, x: around(norm, forward, x, hits))

    return injector


_mutation = partial(Mutation, family="layers")


BATCH_NORM = [
    _mutation("momentum-of-what-stays", "BatchNorm's momentum taken for the share of what stays", "momentum",
           has_batch_norm, momentum(lambda share: 1 - share), pitfalls=(6,), lane="dropout", on=("image layer",)),
    _mutation("momentum-of-flax", "BatchNorm with flax's own momentum of 0.99, 0.01 in torch", "momentum",
           has_batch_norm, momentum(lambda share: 0.01), pitfalls=(6,), lane="dropout", on=("image layer",)),
    _mutation("running-variance-biased", "BatchNorm keeps the biased variance", "running variance",
           has_batch_norm, biased_variance, pitfalls=(7,), lane="dropout", on=("image layer",)),
    _mutation("statistics-of-batch", "BatchNorm takes the batch's statistics in evaluation", "statistics",
           has_batch_norm, statistics(in_training=False), lane="float64", on=("image layer",)),
    _mutation("statistics-running", "BatchNorm takes the running statistics in training", "statistics",
           has_batch_norm, statistics(in_training=True), lane="dropout", on=("image layer",)),
]  # fmt: skip
