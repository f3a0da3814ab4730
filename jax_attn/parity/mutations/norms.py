"""Mutations of normalisations: those of torch, and those that a model has written by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import functions_of, uses
from jax_attn.parity.mutations.injection import PASS, Hits, TorchCall, calling, watching, wrapping
from jax_attn.parity.mutations.mutation import Injector, Mutation

CALLS = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "rsqrt", "var", "std", "var_mean"}


def norms_of(module: Any) -> list[Any]:
    """The normalisations in a module: they hold vectors and no modules, and divide by a deviation."""
    return [child for child in module.modules() if is_norm(child)]


def is_norm(module: Any) -> bool:
    """Whether a module is a normalisation, as far as its code shows."""
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
        on=on,
    )


# Of torch's own layer norm and group norm.

Formula = Callable[[Any, Any, float], Any]
"""`formula(x, axes, eps)`, of the axes that are normalised over."""


def _layer_norm(call: TorchCall, formula: Formula) -> Any:
    """A formula in place of torch's layer norm or RMS norm; PASS where eps is the dtype's own."""
    names = ["input", "normalized_shape", "weight", "bias", "eps"]
    if call.name == "rms_norm":
        names.remove("bias")
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5, **call.named(*names)}
    if given["eps"] is None:
        return PASS
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    return _affine(formula(given["input"], axes, given["eps"]), given["weight"], given["bias"])


def _group_norm(call: TorchCall, formula: Formula) -> Any:
    """A formula in place of torch's group norm."""
    names = ("input", "num_groups", "weight", "bias", "eps")
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5, **call.named(*names)}
    x = given["input"]
    y = formula(x.reshape(len(x), given["num_groups"], -1), (-1,), given["eps"]).reshape(x.shape)
    channels = (-1, *(1 for _ in x.shape[2:]))
    return _affine(y, *(v if v is None else v.reshape(channels) for v in (given["weight"], given["bias"])))


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def normalised_by(wrong: str, right: str, formula: Formula) -> Injector:
    """Another formula where torch's layer norm is called, or its group norm."""

    def change(call: TorchCall) -> Any:
        call.hits.add(wrong, right)
        return (_group_norm if call.name == "group_norm" else _layer_norm)(call, formula)

    return calling(("layer_norm", "group_norm"), change)


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


def _outside_uncentred(x: Any, axes: Any, eps: float) -> Any:
    return x / ((x**2).mean(axes, keepdim=True).sqrt() + eps)


def _outside_batch_norm(call: TorchCall) -> Any:
    names = ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, call.values, strict=False))
    if given["training"] or given["mean"] is None:  # in training it keeps statistics, too
        return PASS
    axes = [1] * (given["input"].ndim - 2)
    mean, variance, weight, bias = (
        vector if (vector := given[name]) is None else vector.reshape(-1, *axes) for name in names[1:5]
    )
    return _affine((given["input"] - mean) / (variance.sqrt() + given["eps"]), weight, bias)


# Of any.


def outside_the_root(call: TorchCall) -> Any:
    """`sqrt(variance) + eps` for `sqrt(variance + eps)`, in torch's functions or written by hand."""
    plain, args, value = call.state.setdefault("plain", {}), call.args, PASS
    if call.name == "group_norm":
        value = _group_norm(call, _outside)
    elif call.name == "batch_norm":
        value = _outside_batch_norm(call)
    elif call.name in ("layer_norm", "rms_norm"):
        value = _layer_norm(call, _outside_uncentred if call.name == "rms_norm" else _outside)
    elif call.name in ("add", "__add__", "__radd__") and isinstance(args[1], float) and 0 < args[1] <= 1e-2:
        found = call.run()
        plain[id(found)] = found, args[0], args[1]
        return found
    elif call.name in ("sqrt", "rsqrt") and id(args[0]) in plain:
        _, variance, eps = plain[id(args[0])]
        value = variance.sqrt() + eps if call.name == "sqrt" else 1 / (variance.sqrt() + eps)
    if value is not PASS:
        call.hits.add("outside the root", "inside")
    return value


def centred(hits: Hits, norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A normalisation that takes no mean off is given its input without it."""
    hits.add("mean taken off", "no mean taken off")
    return forward(x - x.mean(-1, keepdim=True), *args, **kwargs)


def uncentred_norms(module: Any) -> list[Any]:
    """The normalisations that take no mean off, as far as their weights show."""
    import torch

    own = torch.nn.modules
    others = (torch.nn.LayerNorm, torch.nn.GroupNorm, own.batchnorm._NormBase)
    return [
        norm
        for norm in norms_of(module)
        if not isinstance(norm, others) and not any("bias" in name for name, _ in norm.named_parameters())
    ]


def left_out(path: str = "") -> Injector:
    """A normalisation, the last one if no path is given, hands on its input."""

    def around(hits: Hits, norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        hits.add(f"no {path or 'normalisation'}", path or "a normalisation")
        return x * 1

    return wrapping(lambda module: [module.get_submodule(path) if path else norms_of(module)[-1]], around)


def each_left_out(module: Any) -> list[Mutation]:
    """ "norm-missing" of each normalisation in a module."""
    missing = next(mutation for mutation in NORMS if mutation.name == "norm-missing")
    paths = [path for path, child in module.named_modules() if path and is_norm(child)]
    return [replace(missing, injector=left_out(path)) for path in paths]


_mutation = partial(Mutation, family="layers")

HAS_LAYER_NORM = uses("LayerNorm", "layer_norm", "GroupNorm", "group_norm")

PRE, POST = ("encoder-layer-pre",), ("encoder-layer-post", "other norms")

NORMS = [
    eps_mutation(1e-5, on=("encoder-layer-post", "decoder layer", "image layer", "other norms")),
    eps_mutation(1e-6, on=("encoder-layer-post", "other norms", "embeddings")),
    eps_mutation(1e-12, on=PRE),
    eps_mutation(0.0, "eps-missing", on=("encoder-layer-pre", "other norms")),
    _mutation("eps-outside", "eps is added to the deviation, not to the variance", "eps", norms_of,
              watching(outside_the_root),
              on=("encoder-layer-post", "decoder layer", "image layer", "other norms")),
    _mutation("variance-unbiased", "variance over n - 1", "variance", HAS_LAYER_NORM,
              normalised_by("over n - 1", "over n", _unbiased), on=POST),
    _mutation("variance-one-pass", "variance as E[x²] - E[x]², which cancels", "variance", HAS_LAYER_NORM,
              normalised_by("E[x²] - E[x]²", "E[(x - E[x])²]", _one_pass), on=PRE),
    _mutation("norm-uncentred", "RMSNorm for LayerNorm", "variance", HAS_LAYER_NORM,
              normalised_by("no mean taken off", "mean taken off", _uncentred), on=POST),
    _mutation("norm-centred", "LayerNorm for RMSNorm", "variance", uncentred_norms,
              wrapping(uncentred_norms, centred), on=("decoder layer", "other norms")),
    _mutation("norm-missing", "the last normalisation is left out", "normalisation", norms_of, left_out(),
              on=POST),
]  # fmt: skip
