"""Mutations of normalisations: those of torch, and those that a model has written by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Forward, Hits, functions_of, uses, watch, wrap
from jax_attn.parity.mutations.mutation import Mutation

CALLS = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "rsqrt", "var", "std", "var_mean"}


def norms_of(module: Any) -> list[Any]:
    """The normalisations in a module: they hold vectors and no modules, and divide by a deviation."""
    return [child for child in module.modules() if is_norm(child)]


def is_norm(module: Any) -> bool:
    """Whether a module is a normalisation, as far as its code tells."""
    held = [parameter.ndim for parameter in module.parameters()]
    if list(module.children()) or any(axes > 1 for axes in held):
        return False
    named = "norm" in type(module).__name__.lower()
    names = functions_of(module)
    by_hand = {"sqrt", "mean"} <= names and names & {"pow", "square", "norm"}
    return named or bool(held and eps_names(module) and (names & CALLS or by_hand))


def eps_names(module: Any) -> list[str]:
    """The attributes that are an eps: small numbers of that name, or None, for the dtype's."""
    return [
        name
        for name, value in vars(module).items()
        if "eps" in name.lower()
        and (
            value is None
            or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e-2)
        )
    ]


def eps_of(module: Any) -> list[tuple[Any, str, float | None]]:
    """The modules with an eps, the attribute that has it, and its value."""
    return [(child, name, vars(child)[name]) for child in module.modules() for name in eps_names(child)]


def eps_mutation(value: float, name: str = "", on: tuple[str, ...] = ()) -> Mutation:
    """Every eps of a normalisation has another value."""

    def injector(module: Any, hits: Hits) -> None:
        for norm, attribute, eps in eps_of(module):
            if eps != value:
                hits.add(f"{value:g}", "None, the dtype's" if eps is None else f"{eps:g}")
                setattr(norm, attribute, value)

    return Mutation(
        name or f"eps-{value:.0e}".replace("e-0", "e-"),
        f"eps of a normalisation is {value:g}",
        "eps",
        lambda module: any(eps != value for _, _, eps in eps_of(module)),
        injector,
        family="layers",
        pitfalls=(2, 4, 5),
        on=on,
    )


# Of torch's own layer norm and group norm.


def _given(args: Any, kwargs: Any) -> tuple[Any, Any, Any, Any, float]:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    return given["input"], axes, given.get("weight"), given.get("bias"), given.get("eps", 1e-5)


def _by_groups(formula: Callable[[Any, Any, float], Any], args: Any, kwargs: Any) -> Any:
    """A formula of the axes that are normalised over, in place of torch's group norm."""
    names = ("input", "num_groups", "weight", "bias", "eps")
    given: dict[str, Any] = {
        "weight": None,
        "bias": None,
        "eps": 1e-5,
        **dict(zip(names, args, strict=False)),
        **kwargs,
    }
    x = given["input"]
    y = formula(x.reshape(len(x), given["num_groups"], -1), (-1,), given["eps"]).reshape(x.shape)
    channels = (-1, *(1 for _ in x.shape[2:]))
    return _affine(
        y,
        *(
            None if vector is None else vector.reshape(channels)
            for vector in (given["weight"], given["bias"])
        ),
    )


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(faulty: str, right: str, formula: Callable[[Any, Any, float], Any]) -> Any:
    """Another formula where torch's layer norm is called, or its group norm."""

    def caught(forward: Forward, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        if name == "group_norm":
            forward.hits.add(faulty, right)
            return _by_groups(formula, args, kwargs)
        if name != "layer_norm":
            return PASS
        x, axes, weight, bias, eps = _given(args, kwargs)
        forward.hits.add(faulty, right)
        return _affine(formula(x, axes, eps), weight, bias)

    return lambda module, hits: watch(module, caught, hits)


def _moments(x: Any, axes: Any, unbiased: bool = False) -> tuple[Any, Any]:
    return x.mean(axes, keepdim=True), x.var(axes, unbiased=unbiased, keepdim=True)


def _unbiased(x: Any, axes: Any, eps: float) -> Any:
    mean, variance = _moments(x, axes, unbiased=True)
    return (x - mean) / (variance + eps).sqrt()


def _one_pass(x: Any, axes: Any, eps: float) -> Any:
    mean = x.mean(axes, keepdim=True)
    variance = (x**2).mean(axes, keepdim=True) - mean**2
    return (x - mean) / (variance.clamp(min=0) + eps).sqrt()


def _uncentred(x: Any, axes: Any, eps: float) -> Any:
    return x / ((x**2).mean(axes, keepdim=True) + eps).sqrt()


def _outside(x: Any, axes: Any, eps: float) -> Any:
    mean, variance = _moments(x, axes)
    return (x - mean) / (variance.sqrt() + eps)


def _outside_batch_norm(forward: Forward, args: Any, kwargs: Any) -> Any:
    names = ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, [*args, *kwargs.values()], strict=False))
    if given["training"] or given["mean"] is None:  # in training it keeps statistics, too
        return PASS
    forward.hits.add("outside the root", "inside")
    axes = [1] * (given["input"].ndim - 2)
    mean, variance, weight, bias = (
        vector if (vector := given[name]) is None else vector.reshape(-1, *axes) for name in names[1:5]
    )
    return _affine((given["input"] - mean) / (variance.sqrt() + given["eps"]), weight, bias)


# Of any.


def outside_the_root(
    forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`sqrt(variance) + eps` for `sqrt(variance + eps)`, in torch's functions or written by hand."""
    plain = forward.state.setdefault("plain", {})
    words = "outside the root", "inside"
    if name == "group_norm":
        forward.hits.add(*words)
        return _by_groups(_outside, args, kwargs)
    if name == "batch_norm":
        return _outside_batch_norm(forward, args, kwargs)
    if name in ("layer_norm", "rms_norm"):
        x, axes, weight, bias, eps = _given(args, kwargs)
        if eps is None:
            return PASS
        forward.hits.add(*words)
        if name == "rms_norm":
            return _affine(
                x / ((x**2).mean(axes, keepdim=True).sqrt() + eps), kwargs.get("weight", weight), None
            )
        return _affine(_outside(x, axes, eps), weight, bias)
    if name in ("add", "__add__", "__radd__") and isinstance(args[1], float) and 0 < args[1] <= 1e-2:
        value = function(*args, **kwargs)
        plain[id(value)] = value, args[0], args[1]
        return value
    if name in ("sqrt", "rsqrt") and id(args[0]) in plain:
        _, variance, eps = plain[id(args[0])]
        forward.hits.add(*words)
        return variance.sqrt() + eps if name == "sqrt" else 1 / (variance.sqrt() + eps)
    return PASS


def centred(module: Any, hits: Hits) -> None:
    """Every normalisation that takes no mean off is given its input without it."""

    def around(norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        hits.add("mean taken off", "no mean taken off")
        return forward(x - x.mean(-1, keepdim=True), *args, **kwargs)

    for norm in _uncentred_norms(module):
        wrap(norm, around)


def _uncentred_norms(module: Any) -> list[Any]:
    import torch

    own = torch.nn.modules
    others = (torch.nn.LayerNorm, torch.nn.GroupNorm, own.batchnorm._NormBase)
    return [
        norm
        for norm in norms_of(module)
        if not isinstance(norm, others) and not any("bias" in name for name, _ in norm.named_parameters())
    ]


def left_out(path: str | None = None) -> Callable[[Any, Hits], None]:
    """A normalisation, the last one if no path is given, hands on its input."""

    def injector(module: Any, hits: Hits) -> None:
        def around(norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            hits.add(f"no {path or 'normalisation'}", path or "a normalisation")
            return x * 1

        wrap(norms_of(module)[-1] if path is None else module.get_submodule(path), around)

    return injector


def each_left_out(module: Any) -> list[Mutation]:
    """ "norm-missing" of each normalisation in a module."""
    missing = next(mutation for mutation in NORMS if mutation.name == "norm-missing")
    paths = [path for path, child in module.named_modules() if path and is_norm(child)]
    return [replace(missing, injector=left_out(path)) for path in paths]


_mutation = partial(Mutation, family="layers")


VARIANCE = "variance"
HAS_LAYER_NORM = uses("LayerNorm", "layer_norm", "GroupNorm", "group_norm")

NORMS = [
    eps_mutation(1e-5, on=("encoder-layer-post", "decoder layer", "image layer", "other norms")),
    eps_mutation(1e-6, on=("encoder-layer-post", "other norms", "embeddings")),
    eps_mutation(1e-12, on=("encoder-layer-pre",)),
    eps_mutation(0.0, "eps-missing", on=("encoder-layer-pre", "other norms")),
    _mutation("eps-outside", "eps is added to the deviation, not to the variance", "eps",
           lambda module: bool(norms_of(module)),
           lambda module, hits: watch(module, outside_the_root, hits), pitfalls=(2, 29),
           on=("encoder-layer-post", "decoder layer", "image layer", "other norms")),
    _mutation("variance-unbiased", "variance over n - 1", VARIANCE, HAS_LAYER_NORM,
           layer_norm("over n - 1", "over n", _unbiased), pitfalls=(7, 39),
           on=("encoder-layer-post", "other norms")),
    _mutation("variance-one-pass", "variance as E[x²] - E[x]², which cancels", VARIANCE, HAS_LAYER_NORM,
           layer_norm("E[x²] - E[x]²", "E[(x - E[x])²]", _one_pass), pitfalls=(3,), on=("encoder-layer-pre",)),
    _mutation("norm-uncentred", "RMSNorm for LayerNorm", VARIANCE, HAS_LAYER_NORM,
           layer_norm("no mean taken off", "mean taken off", _uncentred), pitfalls=(4,),
           on=("encoder-layer-post", "other norms")),
    _mutation("norm-centred", "LayerNorm for RMSNorm", VARIANCE,
           lambda module: bool(_uncentred_norms(module)), centred, pitfalls=(4,),
           on=("decoder layer", "other norms")),
    _mutation("norm-missing", "the last normalisation is left out", "normalisation",
           lambda module: bool(norms_of(module)), left_out(), on=("encoder-layer-post", "other norms")),
]  # fmt: skip
