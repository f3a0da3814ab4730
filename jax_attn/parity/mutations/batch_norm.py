"""Mutations of batch normalisation, most of which only training shows: in what it leaves behind."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import Hits, wrapping
from jax_attn.parity.mutations.mutation import Injector, Mutation


def _batch_norms(module: Any) -> list[Any]:
    """Those that keep running statistics, with a fixed momentum."""
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    found = [child for child in module.modules() if isinstance(child, kind)]
    return [norm for norm in found if norm.track_running_stats and norm.momentum is not None]


def momentum(other: Callable[[float], float]) -> Injector:
    """Torch's momentum is the share of the new statistics: it becomes `other(it)`."""

    def injector(module: Any, hits: Hits) -> None:
        for norm in _batch_norms(module):
            share = other(norm.momentum)
            if share != norm.momentum:
                hits.add(f"{share:g} of what is new", f"{norm.momentum:g} of it")
                norm.momentum = share

    return injector


def biased_variance(hits: Hits, norm: Any, forward: Any, x: Any) -> Any:
    """What is new of the running variance is over n, not over n - 1."""
    old = norm.running_var.clone()
    y = forward(x)
    if norm.training:
        hits.add("running variance over n", "over n - 1")
        n = x.numel() / x.shape[1]
        kept = (1 - norm.momentum) * old
        norm.running_var.data.copy_(kept + (norm.running_var - kept) * (n - 1) / n)
    return y


def statistics(in_training: bool, hits: Hits, norm: Any, forward: Any, x: Any) -> Any:
    """The batch's own statistics in evaluation; or in training the running ones, which stay as they are."""
    if norm.training != in_training:
        return forward(x)
    from torch.nn import functional as F

    words = ("the running statistics", "the batch's")
    hits.add(*(words if in_training else words[::-1]))
    running = (norm.running_mean, norm.running_var) if in_training else (None, None)
    return F.batch_norm(x, *running, norm.weight, norm.bias, not in_training, 0.0, norm.eps)


def _mutation(name: str, summary: str, setting: str, injector: Injector, lane: str = "dropout") -> Mutation:
    family, on = "layers", ("image layer",)
    return Mutation(name, summary, setting, _batch_norms, injector, family=family, lane=lane, on=on)


BATCH_NORM = [
    _mutation("momentum-of-what-stays", "BatchNorm's momentum taken for the share of what stays", "momentum",
              momentum(lambda share: 1 - share)),
    _mutation("momentum-of-flax", "BatchNorm with flax's own momentum of 0.99, 0.01 in torch", "momentum",
              momentum(lambda share: 0.01)),
    _mutation("running-variance-biased", "BatchNorm keeps the biased variance", "running variance",
              wrapping(_batch_norms, biased_variance)),
    _mutation("statistics-of-batch", "BatchNorm takes the batch's statistics in evaluation", "statistics",
              wrapping(_batch_norms, partial(statistics, False)), lane="float64"),
    _mutation("statistics-running", "BatchNorm takes the running statistics in training", "statistics",
              wrapping(_batch_norms, partial(statistics, True))),
]  # fmt: skip
