"""Settings of paired modules that differ, told without running either."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.module_pairs import ModuleNames, pair_modules
from jax_attn.parity.wrapping import walk
from jax_attn.weights.rules import Names
from jax_attn.weights.tensors import as_numpy


@dataclass(frozen=True)
class SettingFinding:
    """A setting that differs.

    Attributes:
        flax_path: the module's path in Flax; empty for the module itself.
        torch_path: its counterpart's.
        setting: what differs, by torch's name of it.
        flax: its value there.
        torch: its value there.
    """

    flax_path: str
    torch_path: str
    setting: str
    flax: Any
    torch: Any

    def __str__(self) -> str:
        here = self.flax_path or "the module itself"
        return f"{here}: {self.setting}: flax {word(self.flax)}, torch {word(self.torch)}"


def lint_pair(
    flax_module: nnx.Module, torch_module: Any, names: Names = (), modules: ModuleNames | None = None
) -> list[SettingFinding]:
    """What paired modules were built with, where it differs; only activations are run, on a few numbers.

        lint_pair(nnx.LayerNorm(5, rngs=nnx.Rngs(0)), torch.nn.LayerNorm(5))
        # [the module itself: eps: flax 1e-06, torch 1e-05,
        #  the module itself: variance: flax E[x²] - E[x]², torch E[(x - E[x])²]]

    Compared are eps, momentum, activation, bias, scale, dropout rate, number of heads and of groups, the
    place of norms, strides and padding, and any number, word or yes-or-no that both modules have under one
    name. What a module's code does is not looked at.

    Args:
        flax_module: any NNX module.
        torch_module: its counterpart.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`.
        modules: submodules that belong together where the weights do not tell; see `trace_modules`.
    """
    ours = {path: module for module, places in walk(flax_module) for place in places for path in place.all}
    found = []
    for flax_path, torch_path in pair_modules(flax_module, torch_module, names, modules).pairs:
        flax, torch = ours[flax_path], torch_module.get_submodule(torch_path)
        for setting, a, b in _differences(flax, torch):
            found.append(SettingFinding(flax_path, torch_path, setting, a, b))
    return found


def _differences(flax: nnx.Module, torch: Any) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = _of_flax(flax), _of_torch(torch)
    for setting in [name for name in ours if name in theirs]:
        if not _same(ours[setting], theirs[setting]):
            yield setting, ours[setting], theirs[setting]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or isinstance(a, str) or isinstance(b, str):
        return a == b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


# Names of one thing on either side.
HEADS = ("num_heads", "n_heads", "nhead", "n_head", "heads", "num_attention_heads")
ACTIVATIONS = ("activation", "act", "act_fn", "activation_function", "hidden_act", "activation_fn")
EPS = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps")
RATE = ("p", "rate", "dropout_rate")
OWN = {*HEADS, *ACTIVATIONS, *EPS, *RATE, "momentum", "dropout", "training", "deterministic", "bias",
       "scale", "padding", "padding_mode", "stride", "strides", "use_bias", "use_scale", "norm_first",
       "norm_placement", "dtype", "param_dtype", "name", "mode", "num_groups"}  # fmt: skip

ONE_PASS, TWO_PASSES = "E[x²] - E[x]²", "E[(x - E[x])²]"


def _of_flax(module: nnx.Module) -> dict[str, Any]:
    found = _common(module)
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
    if isinstance(module, nnx.Conv):
        found["stride"] = _pair(module.strides, len(tuple(module.kernel_size)))
        found["padding"] = _flax_padding(module.padding, found["stride"], module.kernel_size)
    return found


def _of_torch(module: Any) -> dict[str, Any]:
    import torch

    found = _common(module)
    held = {**vars(module), **module._parameters}
    momentum = held.get("momentum")
    if isinstance(momentum, int | float):
        found["momentum"] = momentum
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
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        found["stride"] = tuple(module.stride)
        padding = module.padding
        pairs = tuple((int(p), int(p)) for p in padding) if not isinstance(padding, str) else padding.upper()
        found["padding"] = pairs
    return found


def _common(module: Any) -> dict[str, Any]:
    """Settings that both sides tell in the same way, by torch's name."""
    held = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found: dict[str, Any] = {
        name: value
        for name, value in held.items()
        if name not in OWN and isinstance(value, bool | int | float | str)
    }
    for setting, names in {"num_heads": HEADS, "eps": EPS}.items():
        for name in names:
            if isinstance(held.get(name), int | float):
                found[setting] = held[name]
    rate = _rate(module)
    if rate is not None:
        found["dropout rate"] = rate
    if isinstance(held.get("num_groups"), int):
        found["num_groups"] = held["num_groups"]
    placement = held.get("norm_placement", held.get("norm_first"))
    if placement in ("pre", "post") or isinstance(placement, bool):
        found["norm placement"] = {True: "pre", False: "post"}.get(placement, placement)
    for name in ACTIVATIONS:
        activation = activation_word(held.get(name, _child(module, name)))
        if activation:
            found["activation"] = activation
    return found


def _child(module: Any, name: str) -> Any:
    return getattr(module, "_modules", {}).get(name)


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
    inner = None if inner is None else _rate(inner) if "dropout" in type(inner).__name__.lower() else None
    return inner


# Activations, by what they make of a few numbers.

POINTS = np.array([-3.0, -1.7, -0.5, 0.25, 1.0, 2.5])


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


KNOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "erf GELU": lambda x: x * (1 + _erf(x / 2**0.5)) / 2,
    "tanh GELU": lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "x sigmoid(1.702 x)": lambda x: x * _sigmoid(1.702 * x),
    "ReLU": lambda x: np.maximum(x, 0),
    "SiLU": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "ELU": lambda x: np.where(x > 0, x, np.expm1(x)),
    "leaky ReLU (0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "ReLU²": lambda x: np.maximum(x, 0) ** 2,
    "none": lambda x: x,
}
WORDS = {
    "gelu": "erf GELU",
    "gelu_new": "tanh GELU",
    "gelu_tanh": "tanh GELU",
    "gelu_pytorch_tanh": "tanh GELU",
    "gelu_approx": "tanh GELU",
    "gelu_fast": "tanh GELU",
    "quick_gelu": "x sigmoid(1.702 x)",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "SiLU",
}


def activation_word(activation: Any) -> str:
    """What an activation is called: a name of it, or a function; empty if that cannot be told."""
    if isinstance(activation, str):
        return WORDS.get(activation.lower(), activation)
    if activation is None or not callable(activation):
        return ""
    values = _values(activation)
    for name, formula in KNOWN.items():
        # Loose enough for float32: the two forms of GELU are 1e-4 apart on these points.
        if values is not None and np.allclose(values, formula(POINTS), rtol=1e-5, atol=1e-5):
            return name
    return ""


def _values(activation: Callable[..., Any]) -> np.ndarray | None:
    """What it makes of the numbers, in the framework whose numbers it takes."""
    try:
        import torch

        with torch.no_grad():
            return as_numpy(activation(torch.tensor(POINTS)))
    except Exception:
        pass
    try:
        return np.asarray(activation(jnp.asarray(POINTS)), np.float64)
    except Exception:
        return None


def _pair(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else (1,) * axes if value is None else tuple(value)


def _flax_padding(padding: Any, stride: tuple[int, ...], kernel: Any) -> Any:
    """(before, after) of each axis; "SAME" as torch has it where the stride is 1."""
    sizes = _pair(kernel, len(stride))
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return tuple((0, 0) for _ in stride)
        if padding.upper() == "SAME" and all(step == 1 for step in stride):
            return tuple(((size - 1) // 2, size // 2) for size in sizes)
        return padding.upper()
    if isinstance(padding, int):
        return tuple((padding, padding) for _ in stride)
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


def word(value: Any) -> str:
    """A setting's value as text."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)
