"""What a module was built with, on either side, by torch's names."""

import re
from dataclasses import dataclass
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
# Compared in words of their own.
COMPARED = {*HEADS, *ACTIVATIONS, *EPS, *RATE, "momentum", "dropout", "bias", "use_bias", "use_scale",
            "norm_first", "norm_placement"}  # fmt: skip
# How something is computed, stored, called or counted, not what is computed.
WITHOUT_EFFECT = re.compile(
    r"training|deterministic|.*dtype|device|name|mode|precision|batch_first|seed|inplace|sparse|.*implementation|impl"
    r"|backend|gradient_checkpointing|remat|use_cache|scan.*|output_.*|return_.*|layer_(idx|id|index)|index|idx|rngs"
    r"|max_(position_embeddings|length|seq_len)|context_length|preferred_element_type|promote_dtype|carry_init"
    # It shows in the shapes of weights, and the weights are compared.
    r"|(num_)?(in|out|input|output|hidden|qkv|kv|q|k|v|in_kv)?_?(features|channels|size|dim)|kdim|vdim|embed_dim|head_dim"
    r"|normalized_shape|feature_axes|reduction_axes|axis|.*_axis_name|num_embeddings|embedding_dim|vocab_size|d_model"
    r"|n_embd|nf|nx"
)
OF_CONVOLUTIONS = {"padding", "padding_mode", "stride", "strides", "dilation", "groups", "kernel_size"}

ONE_PASS, TWO_PASSES = "E[x²] - E[x]²", "E[(x - E[x])²]"
Setting = Any


@dataclass(frozen=True)
class Either:
    """A number that means the same as another, by another convention."""

    value: float
    other: float

    def __str__(self) -> str:
        return f"{self.value:.7g}"


def settings_of_flax(module: nnx.Module) -> dict[str, Setting]:
    """Settings of an NNX module."""
    found = _common(module, isinstance(module, nnx.Conv | nnx.ConvTranspose))
    held = vars(module)
    if isinstance(held.get("momentum"), int | float):
        share = held["momentum"]
        # Torch's is the share of what is new, Flax's of what stays; in a class of one's own it may be either.
        found["momentum"] = 1 - share if isinstance(module, nnx.BatchNorm) else Either(share, 1 - share)
    if isinstance(module, nnx.LayerNorm | nnx.GroupNorm | nnx.BatchNorm):
        fast = bool(getattr(module, "use_fast_variance", False))
        found["variance"] = ONE_PASS if fast else TWO_PASSES
        found["scale"] = held.get("scale") is not None
    if "bias" in held:
        found["bias"] = held["bias"] is not None
    if isinstance(module, nnx.MultiHeadAttention):
        if module.dropout_rate:
            found["dropout mask shared by batch and heads"] = bool(module.broadcast_dropout)
        found["bias"] = module.use_bias
    if isinstance(module, nnx.Embed):
        found |= {name: getattr(module, name, None) for name in ("padding_idx", "max_norm")}
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
    if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.track_running_stats:
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
    """Settings that both sides hold in the same way."""
    left_out = COMPARED | (OF_CONVOLUTIONS if conv else set())
    held = {name: _plain(value) for name, value in vars(module).items() if not name.startswith("_")}
    found: dict[str, Setting] = {
        name: value
        for name, value in held.items()
        if name not in left_out
        and not WITHOUT_EFFECT.fullmatch(name)
        and isinstance(value, bool | int | float | str | tuple)
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
