"""What a module was built with, on either side, by torch's names."""

from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity.diagnosing.activations import activation_of
from jax_attn.parity.diagnosing.conv_settings import flax_conv, torch_conv

# Names of one thing on either side.
HEADS = ("num_heads", "n_heads", "nhead", "n_head", "heads", "num_attention_heads")
ACTIVATIONS = ("activation", "act", "act_fn", "activation_function", "hidden_act", "activation_fn")
EPS = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "rms_norm_eps")
RATE = ("p", "rate", "dropout_rate")
# Compared in words of their own, or no matter of the computation.
NOT_COMMON = {*HEADS, *ACTIVATIONS, *EPS, *RATE, "momentum", "dropout", "training", "deterministic", "bias",
              "use_bias", "use_scale", "norm_first", "norm_placement", "dtype", "param_dtype", "device",
              "name", "mode"}  # fmt: skip
OF_CONVOLUTIONS = {"padding", "padding_mode", "stride", "strides", "dilation", "groups", "kernel_size"}

ONE_PASS, TWO_PASSES = "E[x²] - E[x]²", "E[(x - E[x])²]"
Setting = Any


def settings_of_flax(module: nnx.Module) -> dict[str, Setting]:
    """Settings of an NNX module."""
    found = _common(module, isinstance(module, nnx.Conv | nnx.ConvTranspose))
    held = vars(module)
    if "momentum" in held and isinstance(held["momentum"], int | float):
        found["momentum"] = 1 - held["momentum"]  # torch's is the share of what is new
    if isinstance(module, nnx.LayerNorm | nnx.GroupNorm | nnx.BatchNorm):
        fast = bool(getattr(module, "use_fast_variance", False))
        found["variance"] = ONE_PASS if fast else TWO_PASSES
        found["scale"] = held.get("scale") is not None
    if "bias" in held:
        found["bias"] = held["bias"] is not None
    if isinstance(module, nnx.MultiHeadAttention):
        found["dropout mask shared by batch and heads"] = bool(module.broadcast_dropout)
        found["bias"] = module.use_bias
    if isinstance(module, nnx.Embed):
        found |= {"padding_idx": None, "max_norm": None}
    if isinstance(module, nnx.Conv):
        found |= flax_conv(module)
    return found


def settings_of_torch(module: Any) -> dict[str, Setting]:
    """Settings of a torch module."""
    import torch

    conv = isinstance(module, torch.nn.modules.conv._ConvNd)
    transposed = isinstance(module, torch.nn.modules.conv._ConvTransposeNd)
    found = _common(module, conv)
    held = {**vars(module), **module._parameters}
    if isinstance(module, torch.nn.modules.batchnorm._NormBase):
        found["momentum"] = "1 / the number of batches" if module.momentum is None else module.momentum
    if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm | torch.nn.modules.batchnorm._BatchNorm):
        found["variance"] = TWO_PASSES
        found["scale"] = held.get("weight") is not None
    if isinstance(module, torch.nn.RMSNorm) and module.eps is None:
        dtype = module.weight.dtype if module.weight is not None else torch.get_default_dtype()
        found["eps"] = torch.finfo(dtype).eps
    if "bias" in held and not callable(held["bias"]):
        found["bias"] = held["bias"] is not None and held["bias"] is not False
    if isinstance(module, torch.nn.MultiheadAttention):
        found["dropout mask shared by batch and heads"] = False
        found["bias"] = module.in_proj_bias is not None
    if isinstance(module, torch.nn.Embedding):
        found |= {"padding_idx": module.padding_idx, "max_norm": module.max_norm}
    if conv and not transposed:
        found |= torch_conv(module)
    return found


def _common(module: Any, conv: bool) -> dict[str, Setting]:
    """Settings that both sides tell in the same way."""
    left_out = NOT_COMMON | (OF_CONVOLUTIONS if conv else set())
    held = {name: _plain(value) for name, value in vars(module).items() if not name.startswith("_")}
    found: dict[str, Setting] = {
        name: value
        for name, value in held.items()
        if name not in left_out and isinstance(value, bool | int | float | str | tuple)
    }
    for setting, names in {"num_heads": HEADS, "eps": EPS}.items():
        for name in names:
            if isinstance(held.get(name), int | float):
                found[setting] = held[name]
    rate = _rate(module)
    if rate is not None:
        found["dropout rate"] = rate
    placement = held.get("norm_placement", held.get("norm_first"))
    if placement in ("pre", "post") or isinstance(placement, bool):
        found["norm placement"] = {True: "pre", False: "post"}.get(placement, placement)
    children = getattr(module, "_modules", {})
    for name in ACTIVATIONS:
        if name in held or name in children:
            activation = activation_of(held.get(name, children.get(name)))
            if activation is not None:
                found["activation"] = activation
    return found


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; a tuple that holds anything but numbers as None."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        numbers = tuple(map(_plain, value))
        return numbers if numbers and all(isinstance(n, bool | int | float) for n in numbers) else None
    return value


def _rate(module: Any) -> float | None:
    """The rate of a dropout, or of a module that drops out by itself."""
    kind = type(module).__name__.lower()
    names = RATE if "dropout" in kind else ("dropout_rate",)
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    inner = getattr(module, "dropout", None)
    if isinstance(inner, int | float) and not isinstance(inner, bool):
        return float(inner)
    return None if inner is None else _rate(inner) if "dropout" in type(inner).__name__.lower() else None
