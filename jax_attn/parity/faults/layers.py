"""Faults of what stands around attention: activations, normalisations, dropout, skip connections."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.faults.fault import Fault
from jax_attn.parity.faults.planting import PASS, Acts, Forward, functions_of, watch, wrap

Act = Callable[..., Any]


def uses(*names: str) -> Callable[[Any], bool]:
    """Whether a module calls one of these functions, or holds a layer that is called so."""
    return lambda module: bool(functions_of(module) & set(names))


def calling(names: tuple[str, ...], change: Act) -> Callable[[Any, Acts], None]:
    """`change(forward, function, args, kwargs)` where one of these functions is called."""

    def caught(
        forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return change(forward, function, args, kwargs) if name in names else PASS

    return lambda module, acts: watch(module, caught, acts)


# Activations.


def _torch() -> Any:
    import torch

    return torch


def _form(kwargs: dict[str, Any]) -> str:
    return "tanh GELU" if kwargs.get("approximate") == "tanh" else "erf GELU"


def other_gelu(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """The tanh form for that with erf, and the other way round."""
    tanh = kwargs.get("approximate", "none") == "tanh"
    forward.acts.add("erf GELU" if tanh else "tanh GELU", _form(kwargs))
    return function(*args, **{**kwargs, "approximate": "none" if tanh else "tanh"})


def sigmoid_gelu(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """`x sigmoid(1.702 x)`."""
    forward.acts.add("x sigmoid(1.702 x)", _form(kwargs))
    return args[0] * _torch().sigmoid(1.702 * args[0])


def relu_for_gelu(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """ReLU."""
    forward.acts.add("ReLU", _form(kwargs))
    return _torch().relu(args[0])


def gelu_for_relu(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """GELU with erf."""
    forward.acts.add("erf GELU", "ReLU")
    return _torch().nn.functional.gelu(args[0])


def tanh_gelu_for_relu(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """GELU with tanh."""
    forward.acts.add("tanh GELU", "ReLU")
    return _torch().nn.functional.gelu(args[0], approximate="tanh")


def no_tanh(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """No tanh."""
    forward.acts.add("none", "tanh")
    return args[0] * 1


# Normalisations.


def _norm(args: Any, kwargs: Any) -> tuple[Any, Any, Any, Any, float]:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    return given["input"], axes, given.get("weight"), given.get("bias"), given.get("eps", 1e-5)


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _normalising(faulty: str, right: str, formula: Callable[[Any, Any, float], Any]) -> Act:
    def change(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
        x, axes, weight, bias, eps = _norm(args, kwargs)
        forward.acts.add(faulty, right)
        return _affine(formula(x, axes, eps), weight, bias)

    return change


def _moments(x: Any, axes: Any, unbiased: bool = False) -> tuple[Any, Any]:
    return x.mean(axes, keepdim=True), x.var(axes, unbiased=unbiased, keepdim=True)


def _outside(x: Any, axes: Any, eps: float) -> Any:
    mean, variance = _moments(x, axes)
    return (x - mean) / (variance.sqrt() + eps)


def _unbiased(x: Any, axes: Any, eps: float) -> Any:
    mean, variance = _moments(x, axes, unbiased=True)
    return (x - mean) / (variance + eps).sqrt()


def _one_pass(x: Any, axes: Any, eps: float) -> Any:
    mean = x.mean(axes, keepdim=True)
    variance = (x**2).mean(axes, keepdim=True) - mean**2
    return (x - mean) / (variance.clamp(min=0) + eps).sqrt()


def _uncentred(x: Any, axes: Any, eps: float) -> Any:
    return x / ((x**2).mean(axes, keepdim=True) + eps).sqrt()


LAYER_NORM = ("layer_norm",)
HAS_LAYER_NORM = uses("LayerNorm", "layer_norm")


def eps_of(module: Any) -> list[tuple[Any, float]]:
    """The normalisations of a module, with their eps; None is the dtype's."""
    norms = [child for child in module.modules() if "norm" in type(child).__name__.lower()]
    return [(norm, norm.eps) for norm in norms if hasattr(norm, "eps")]


def eps_fault(value: float, name: str = "") -> Fault:
    """Every eps of a normalisation has another value."""

    def planter(module: Any, acts: Acts) -> None:
        for norm, eps in eps_of(module):
            if eps != value:
                acts.add(f"{value:g}", "None, the dtype's" if eps is None else f"{eps:g}")
                norm.eps = value

    return Fault(
        name or f"eps-{value:.0e}".replace("e-0", "e-"),
        f"eps of a normalisation is {value:g}",
        "layers",
        "eps",
        lambda module: any(eps != value for _, eps in eps_of(module)),
        planter,
        (2, 4, 5),
    )


# Dropout.


def _dropouts(module: Any) -> list[Any]:
    return [d for d in module.modules() if isinstance(d, _torch().nn.Dropout) and 0 < d.p < 1]


def dropout_planter(around: Callable[..., Any] | None, rate: Callable[[float], float] | None = None) -> Any:
    """Changes every dropout: `around(module, forward, x)`, or its rate."""

    def planter(module: Any, acts: Acts) -> None:
        for dropout in _dropouts(module):
            if rate is not None:
                acts.add(f"{rate(dropout.p):g}", f"{dropout.p:g}")
                dropout.p = rate(dropout.p)
            if around is not None:
                wrap(dropout, partial(around, acts))

    return planter


def unscaled(acts: Acts, module: Any, forward: Any, x: Any) -> Any:
    """What is kept is not scaled up."""
    y = forward(x)
    if not module.training:
        return y
    acts.add("what is kept stays as it is", f"it is divided by {1 - module.p:g}")
    return y * (1 - module.p)


def always_scaled(acts: Acts, module: Any, forward: Any, x: Any) -> Any:
    """Scaled down in evaluation, as dropout was first described."""
    y = forward(x)
    if not module.training:
        acts.add(f"times {1 - module.p:g} in evaluation", "as it is")
        return y * (1 - module.p)
    return y * (1 - module.p)


# What a layer does with its parts.


def other_placement(module: Any, acts: Acts) -> None:
    """Pre-norm for post-norm, and the other way round."""
    for child in module.modules():
        if getattr(child, "norm_placement", None) in ("pre", "post"):
            other = {"pre": "post", "post": "pre"}[child.norm_placement]
            acts.add(f"{other}-norm", f"{child.norm_placement}-norm")
            child.norm_placement = other
        elif isinstance(getattr(child, "norm_first", None), bool):
            acts.add(*("post-norm", "pre-norm") if child.norm_first else ("pre-norm", "post-norm"))
            child.norm_first = not child.norm_first


def has_placement(module: Any) -> bool:
    """Whether a module knows pre-norm and post-norm."""
    return any(
        getattr(child, "norm_placement", None) in ("pre", "post")
        or isinstance(getattr(child, "norm_first", None), bool)
        for child in module.modules()
    )


def without_skip(
    forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x + f(x)` without `x`."""
    if name not in ("add", "__add__", "__radd__") or len(args) < 2:
        return PASS
    for own, other in (args[:2], args[1::-1]):
        same = hasattr(other, "shape") and other.shape == getattr(own, "shape", None)
        if any(own is given for given in forward.inputs) and same and own is not other:
            if isinstance(other, _torch().nn.Parameter):
                return PASS
            forward.acts.add("f(x)", "x + f(x)")
            return other * 1
    return PASS


def skip_planter(module: Any, acts: Acts) -> None:
    """The first skip connection of every module that has some."""
    for child in list(module.modules()):
        if has_skip(child):
            watch(child, without_skip, acts)


def has_skip(module: Any) -> bool:
    """Whether a module of several adds something to its input, as far as its name tells."""
    name = type(module).__name__.lower()
    return any(part in name for part in ("layer", "block")) and len(list(module.children())) > 1


def _norms(module: Any) -> list[Any]:
    return [child for child in module.modules() if isinstance(child, _torch().nn.LayerNorm)]


def last_norm_left_out(module: Any, acts: Acts) -> None:
    """The last normalisation hands on its input."""

    def around(norm: Any, forward: Any, x: Any) -> Any:
        acts.add("no normalisation", "a normalisation")
        return x * 1

    wrap(_norms(module)[-1], around)


def axes_swapped(module: Any, acts: Acts) -> None:
    """Batch and sequence change places."""

    def swap(x: Any) -> Any:
        return x.transpose(0, 1) if getattr(x, "ndim", 0) == 3 else x

    def around(module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(getattr(arg, "ndim", 0) == 3 for arg in args):
            return forward(*args, **kwargs)
        acts.add("(t, b, d)", "(b, t, d)")
        value = forward(*map(swap, args), **kwargs)
        return type(value)(map(swap, value)) if type(value) is tuple else swap(value)

    wrap(module, around)


def input_detached(module: Any, acts: Acts) -> None:
    """The last linear layer's input gets no gradient."""

    def around(linear: Any, forward: Any, x: Any) -> Any:
        acts.add("stopped", "passed on")
        return forward(x.detach())

    wrap(_linears(module)[-1], around)


def _linears(module: Any) -> list[Any]:
    return [child for child in module.modules() if isinstance(child, _torch().nn.Linear)]


def _fault(
    name: str,
    summary: str,
    setting: str,
    fits: Callable[[Any], bool],
    planter: Callable[[Any, Acts], None],
    *pitfalls: int,
    lane: str = "float64",
) -> Fault:
    return Fault(name, summary, "layers", setting, fits, planter, pitfalls, lane)


GELU, RELU = ("gelu",), ("relu",)
ACTIVATION, NORM, DROPOUT = "activation", "variance", "dropout"

LAYERS = [
    _fault("gelu-form", "GELU with tanh for GELU with erf, or the other way round", ACTIVATION,
           uses("gelu", "GELU"), calling(GELU, other_gelu), 1),
    _fault("gelu-sigmoid", "x sigmoid(1.702 x) for GELU", ACTIVATION, uses("gelu", "GELU"),
           calling(GELU, sigmoid_gelu), 1),
    _fault("relu-for-gelu", "ReLU for GELU", ACTIVATION, uses("gelu", "GELU"),
           calling(GELU, relu_for_gelu), 1),
    _fault("gelu-for-relu", "GELU for ReLU", ACTIVATION, uses("relu", "ReLU"),
           calling(RELU, gelu_for_relu), 1),
    _fault("tanh-gelu-for-relu", "GELU with tanh for ReLU", ACTIVATION, uses("relu", "ReLU"),
           calling(RELU, tanh_gelu_for_relu), 1),
    eps_fault(1e-5),
    eps_fault(1e-6),
    eps_fault(1e-12),
    _fault("eps-outside", "eps is added to the standard deviation, not to the variance", "eps",
           HAS_LAYER_NORM, calling(LAYER_NORM, _normalising("outside the root", "inside", _outside)), 2, 29),
    _fault("variance-unbiased", "variance over n - 1", NORM, HAS_LAYER_NORM,
           calling(LAYER_NORM, _normalising("over n - 1", "over n", _unbiased)), 7, 39),
    _fault("variance-one-pass", "variance as E[x²] - E[x]², which cancels", NORM, HAS_LAYER_NORM,
           calling(LAYER_NORM, _normalising("E[x²] - E[x]²", "E[(x - E[x])²]", _one_pass)), 3),
    _fault("norm-uncentred", "RMSNorm for LayerNorm", NORM, HAS_LAYER_NORM,
           calling(LAYER_NORM, _normalising("no mean taken off", "mean taken off", _uncentred)), 4),
    _fault("norm-missing", "the last normalisation is left out", "normalisation",
           lambda module: bool(_norms(module)), last_norm_left_out),
    _fault("norm-placement", "pre-norm for post-norm, or the other way round", "norm placement",
           has_placement, other_placement),
    _fault("skip-missing", "a skip connection is left out", "skip connection",
           lambda module: any(map(has_skip, module.modules())), skip_planter),
    _fault("axes-swapped", "batch and sequence change places", "axes",
           lambda module: True, axes_swapped, 20),
    _fault("input-constant", "no gradient passes through a linear layer", "gradient of an input",
           lambda module: bool(_linears(module)), input_detached, 35),
    _fault("dropout-rate", "dropout at another rate", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_planter(None, lambda rate: rate / 2), 45, lane="dropout"),
    _fault("dropout-missing", "no dropout", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_planter(None, lambda rate: 0.0), 45, lane="dropout"),
    _fault("dropout-unscaled", "dropout that does not scale up what it keeps", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_planter(unscaled), 45, lane="dropout"),
    _fault("dropout-in-evaluation", "dropout that scales down in evaluation, not up in training", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_planter(always_scaled), 45),
]  # fmt: skip
