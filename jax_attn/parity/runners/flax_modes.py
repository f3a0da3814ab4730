"""What of a Flax module depends on its mode, or is fixed whatever the lane."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.primitives import Dropout
from jax_attn.parity.lanes import Lane


def fixed_dtype(module: nnx.Module, lane: Lane) -> str:
    """A word on the submodules that compute in 16 bits of their own, which nothing lifts; empty if none."""
    for path, node in nnx.iter_modules(module, graph=True):
        dtype = None if isinstance(node, nnx.Embed) else getattr(node, "dtype", None)
        if dtype is not None and not isinstance(node, nnx.Variable) and _is_narrow(dtype):
            name = ".".join(map(str, path)) or type(node).__name__
            return f"{name} was built with dtype={np.dtype(dtype).name}, so it cannot compute in {lane.dtype}"
    return ""


def has_dropout(module: nnx.Module) -> bool:
    """Whether a submodule drops anything out while training."""
    return any(
        isinstance(rate := getattr(node, name, 0.0), int | float) and rate > 0
        for _, node in nnx.iter_modules(module, graph=True)
        for name in ("rate", "dropout_rate")
    )


def depends_on_mode(module: nnx.Module) -> bool:
    """Whether `train()` and `eval()` switch anything in a submodule that could show in its outputs."""
    module = nnx.clone(module, graph=True)
    module.eval()
    evaluating = [_settings(node) for _, node in nnx.iter_modules(module, graph=True)]
    module.train()
    training = [_settings(node) for _, node in nnx.iter_modules(module, graph=True)]
    return evaluating != training


def _settings(node: nnx.Module) -> dict[str, Any]:
    """The plain attributes of a module; none of a dropout that never drops."""
    plain = (nnx.Dropout.__call__, Dropout.__call__)
    if isinstance(node, nnx.Dropout) and type(node).__call__ in plain and node.rate == 0:
        return {}
    return {name: value for name, value in vars(node).items() if isinstance(value, bool | int | float | str)}


def _is_narrow(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    except TypeError:
        return False
