"""What a training in evaluation mode does not compare."""

from typing import Any

from flax import nnx

from jax_attn.parity.runners.flax_modes import has_dropout


def unseen_in_evaluation(flax: nnx.Module, torch: Any) -> str:
    """What either module does in training mode alone, in words; empty if nothing is known.

    Dropout that torch's module calls as a function is not known.
    """
    modules = list(torch.modules())
    batch_statistics = any(
        isinstance(variable, nnx.BatchStat)
        for _, variable in nnx.iter_graph(flax)
        if isinstance(variable, nnx.Variable)
    ) or any(getattr(module, "track_running_stats", False) for module in modules)
    dropout = has_dropout(flax) or any(_rate(module) > 0 for module in modules)
    found = {"running statistics": batch_statistics, "dropout": dropout}
    return " and ".join(name for name, there in found.items() if there)


def _rate(module: Any) -> float:
    """The rate of one of torch's own modules that drop out."""
    from torch.nn import MultiheadAttention
    from torch.nn.modules.dropout import _DropoutNd

    if isinstance(module, _DropoutNd):
        return module.p
    return module.dropout if isinstance(module, MultiheadAttention) else 0.0
