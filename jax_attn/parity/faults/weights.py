"""Faults in how weights are used: each is another tensor in place of a parameter or buffer, wherever used.

The parameter itself stays as it is: a comparison hands the weights on to the other side.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from jax_attn.parity.faults.fault import Fault
from jax_attn.parity.faults.planting import PASS, Acts, Forward, watch

Select = Callable[[Any], dict[str, Any]]
"""Of a module: tensors by name, each of which another takes the place of."""


class Substitute:
    """Puts `change(module, tensor, name)` in place of the tensors that `select` names.

    Args:
        select: which.
        change: what takes their place.
        words: what a diagnosis says: with the fault, and without.
    """

    def __init__(self, select: Select, change: Callable[[Any, Any, str], Any], words: tuple[str, str]):
        self.select = select
        self.change = change
        self.words = words

    def __call__(
        self, forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the function with the other tensors, if it was given one of those."""
        if "chosen" not in forward.state:
            chosen = self.select(forward.module)
            forward.state["chosen"] = {id(tensor): (tensor, key) for key, tensor in chosen.items()}
        chosen = forward.state["chosen"]

        def instead(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(map(instead, value)) if type(value) in (list, tuple) else value
            if id(value) not in chosen:
                return value
            forward.acts.add(*self.words)
            return self.change(forward.module, *chosen[id(value)])

        if name == "__get__" and args and id(args[0]) in chosen and "shape" in str(function):
            return PASS
        flat = [*args, *kwargs.values()]
        flat += [part for value in flat if isinstance(value, list | tuple) for part in value]
        if not any(id(value) in chosen for value in flat):
            return PASS
        args = tuple(map(instead, args))
        kwargs = {key: instead(value) for key, value in kwargs.items()}
        if name == "multi_head_attention_forward":
            from jax_attn.parity.faults.planting import opened

            with opened(forward):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    def plant(self, module: Any, acts: Acts) -> None:
        """Put it into a module."""
        watch(module, self, acts)

    def fits(self, module: Any) -> bool:
        """Whether there is such a tensor."""
        return bool(self.select(module))


def _parameters(module: Any) -> Iterator[tuple[str, Any]]:
    return module.named_parameters()


def square(module: Any) -> dict[str, Any]:
    """The first square weight that is a matrix product's."""
    import torch

    for path, child in module.named_modules():
        if isinstance(child, torch.nn.Embedding):
            continue
        for name, parameter in child.named_parameters(recurse=False):
            if parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]:
                return {f"{path}.{name}".lstrip("."): parameter}
    return {}


def bias(module: Any) -> dict[str, Any]:
    """The last bias of a linear layer, or the one tensor that is called so."""
    import torch

    found = [
        (f"{path}.bias".lstrip("."), child.bias)
        for path, child in module.named_modules()
        if isinstance(child, torch.nn.Linear) and child.bias is not None
    ]
    found = found or [(key, p) for key, p in _parameters(module) if "bias" in key and p.ndim == 1]
    return dict(found[-1:])


def norm_tensor(name: str) -> Select:
    """The `name` of every normalisation."""

    def select(module: Any) -> dict[str, Any]:
        found = {}
        for path, child in module.named_modules():
            tensor = getattr(child, name, None) if "norm" in type(child).__name__.lower() else None
            if tensor is not None:
                found[f"{path}.{name}".lstrip(".")] = tensor
        return found

    return select


def positions(module: Any) -> dict[str, Any]:
    """Tables of positions: parameters and buffers of two axes of what is called so."""
    found = {}
    for path, child in module.named_modules():
        if "position" not in f"{path}.{type(child).__name__}".lower():
            continue
        for name, tensor in [
            *child.named_parameters(recurse=False),
            *child.named_buffers(recurse=False),
        ]:
            if tensor.ndim == 2 and tensor.is_floating_point():
                found[f"{path}.{name}".lstrip(".")] = tensor
    return found


def waves(module: Any) -> dict[str, Any]:
    """Tables of positions that are constants."""
    constants = {id(buffer) for buffer in module.buffers()}
    return {key: tensor for key, tensor in positions(module).items() if id(tensor) in constants}


def fused(module: Any) -> dict[str, Any]:
    """Weights and biases of queries, keys and values in one."""
    found = {}
    for path, child in module.named_modules():
        tensors = dict(child.named_parameters(recurse=False))
        named = path.rpartition(".")[2].lower() in ("qkv", "c_attn", "in_proj", "query_key_value")
        for name, tensor in tensors.items():
            own = named or name.startswith("in_proj")
            if own and tensor.shape[0] % 3 == 0 and _heads_around(module, path) > 1:
                found[f"{path}.{name}".lstrip(".")] = tensor
    return found


def _heads_around(module: Any, path: str) -> int:
    while True:
        heads = getattr(module.get_submodule(path), "num_heads", None)
        if isinstance(heads, int):
            return heads
        if not path:
            return 1
        path = path.rpartition(".")[0]


def split_by_heads(module: Any, tensor: Any, name: str) -> Any:
    """What is laid out as (3, heads, width), read as (heads, 3, width)."""
    heads = _heads_around(module, name.rpartition(".")[0])
    width = tensor.shape[0] // 3 // heads
    return tensor.unflatten(0, (heads, 3, width)).movedim(0, 1).flatten(0, 2)


def halves(module: Any, tensor: Any, name: str) -> Any:
    """Even columns, then the odd ones."""
    import torch

    return torch.cat([tensor[:, 0::2], tensor[:, 1::2]], dim=1)


def one_on(module: Any, tensor: Any, name: str) -> Any:
    """Every row the next one."""
    return tensor.roll(-1, 0)


def zeros(module: Any, tensor: Any, name: str) -> Any:
    """Zeros."""
    return tensor.new_zeros(tensor.shape)


def transposed(module: Any, tensor: Any, name: str) -> Any:
    """The transpose."""
    return tensor.mT


def plus_one(module: Any, tensor: Any, name: str) -> Any:
    """One more."""
    return tensor + 1


def detached(module: Any, tensor: Any, name: str) -> Any:
    """Without a gradient."""
    return tensor.detach()


def first_weight(module: Any) -> dict[str, Any]:
    """The first parameter of two axes, else the first there is."""
    named = list(_parameters(module))
    found = [(key, p) for key, p in named if p.ndim == 2] or named
    return dict(found[:1])


def one_norm(name: str) -> Select:
    """The `name` of the last normalisation."""
    return lambda module: dict(list(norm_tensor(name)(module).items())[-1:])


def _fault(
    name: str,
    summary: str,
    family: str,
    setting: str,
    select: Select,
    change: Callable[[Any, Any, str], Any],
    words: tuple[str, str],
    *pitfalls: int,
) -> Fault:
    substitute = Substitute(select, change, words)
    return Fault(name, summary, family, setting, substitute.fits, substitute.plant, pitfalls)


WEIGHTS = [
    _fault("weight-transposed", "a square weight is used without its transpose", "layers", "weight",
           square, transposed, ("the transpose", "the weight"), 11, 12),
    _fault("bias-missing", "a bias is not added", "layers", "bias", bias, zeros, ("no bias", "a bias"), 8),
    _fault("qkv-by-heads", "a fused q, k, v weight is split into heads first", "attention", "fused q, k, v",
           fused, split_by_heads, ("split as (heads, 3, width)", "as (3, heads, width)"), 13),
    _fault("norm-bias-missing", "a normalisation without its bias", "layers", "norm bias",
           one_norm("bias"), zeros, ("no bias", "a bias"), 2),
    _fault("norm-scale-plus-one", "a normalisation scales by 1 + its weight", "layers", "norm scale",
           one_norm("weight"), plus_one, ("1 + weight", "weight"), 2),
    _fault("weight-constant", "a parameter gets no gradient, as if it were a buffer", "layers",
           "gradient of a weight", first_weight, detached, ("none", "one"), 35),
    _fault("position-off-by-one", "positions are counted from 1", "models", "positions", positions,
           one_on, ("from 1", "from 0"), 16),
    _fault("position-missing", "positions are not added", "models", "positions", positions, zeros,
           ("none", "added")),
    _fault("position-halves", "sines in one half and cosines in the other, not in turn", "models",
           "positions", waves, halves, ("sines, then cosines", "in turn"), 16),
]  # fmt: skip


def variants(module: Any) -> list[Fault]:
    """The faults that befall one weight, for each weight of a module that they may befall."""
    import torch

    tables = {id(p) for m in module.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    kinds = {
        "weight-transposed": (transposed, lambda p: p.ndim == 2 and p.shape[0] == p.shape[1]),
        "bias-missing": (zeros, lambda p: p.ndim == 1),
        "weight-constant": (detached, lambda p: True),
    }
    of_norms = norm_tensor("bias")(module)
    found = []
    for fault in WEIGHTS:
        change, fits = kinds.get(fault.name, (None, None))
        if change is None or fits is None:
            continue
        for key, parameter in module.named_parameters():
            bias_only = fault.name != "bias-missing" or ("bias" in key and key not in of_norms)
            if fits(parameter) and bias_only and not (change is transposed and id(parameter) in tables):
                found.append(_of_one(fault, key, change))
    return found


def _of_one(fault: Fault, key: str, change: Callable[[Any, Any, str], Any]) -> Fault:
    right, wrong = {
        "weight-transposed": (key, f"the transpose of {key}"),
        "bias-missing": (key, f"no {key}"),
        "weight-constant": (f"a gradient of {key}", "none"),
    }[fault.name]
    substitute = Substitute(lambda module: {key: module.get_parameter(key)}, change, (wrong, right))
    return replace(fault, fits=lambda module: True, planter=substitute.plant)
