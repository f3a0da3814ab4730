"""Mutations of positions that are added: a table that is looked up, or one that is cut to length."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import uses
from jax_attn.parity.mutations.injection import PASS, Hits, TorchCall, calling, watch
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.weights import Substitute

PLACES = ("position", "wpe", "pos_emb", "pos_embed")


def is_lookup(module: Any) -> bool:
    """Whether a module looks rows up by ids, as torch's own embedding does."""
    import torch

    return isinstance(module, torch.nn.Embedding) and type(module).forward is torch.nn.Embedding.forward


def tables(module: Any) -> list[Any]:
    """Tables of positions that are not looked up by ids: parameters and buffers of what is called so."""
    found = []
    for path, child in module.named_modules():
        own = [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]
        for name, tensor in () if is_lookup(child) else own:
            called = any(word in f"{path}.{type(child).__name__}.{name}".lower() for word in PLACES)
            if called and tensor.ndim in (2, 3) and tensor.is_floating_point():
                found.append(tensor)
    return found


def waves(module: Any) -> list[Any]:
    """Tables of positions that are constants."""
    constants = {id(buffer) for buffer in module.buffers()}
    return [table for table in tables(module) if id(table) in constants]


def _counts(ids: Any) -> bool:
    """Whether ids count up, one by one."""
    plain = ids.ndim > 0 and ids.shape[-1] > 1 and not ids.is_floating_point()
    return plain and bool((ids[..., 1:] - ids[..., :-1] == 1).all())


def _injector(rows: Callable[[Any, Any, int], Any], words: Callable[[int], tuple[str, str]]) -> Injector:
    """`rows(table, ids, axis)` where ids that count up are looked up, or a table of positions is used whole."""

    def looked_up(call: TorchCall) -> Any:
        if call.name != "embedding" or len(call.args) < 2:
            return PASS
        ids, table = call.args[:2]
        parameters = call.forward.module.named_parameters()
        named = [id(p) for key, p in parameters if any(word in key.lower() for word in PLACES)]
        if not (_counts(ids) or id(table) in named):
            return PASS
        call.hits.add(*words(int(ids.min())))
        return rows(table, ids.flatten(), 0).reshape(*ids.shape, -1)

    def whole(table: Any) -> Any:
        import torch

        return rows(table, torch.arange(table.shape[-2], device=table.device), table.ndim - 2)

    def injector(module: Any, hits: Hits) -> None:
        Substitute(tables, whole, words(0)).inject(module, hits)
        watch(module, looked_up, hits)

    return injector


def _fits(module: Any) -> bool:
    """Whether positions are added, as far as names show: a table that is looked up may be one."""
    import torch

    return bool(tables(module)) or any(isinstance(child, torch.nn.Embedding) for child in module.modules())


def _moved(name: str, by: int) -> Mutation:
    """Positions are counted from another number; those beyond the table are its first or last."""

    def rows(table: Any, ids: Any, axis: int) -> Any:
        return table.index_select(axis, (ids + by).clamp(0, table.shape[axis] - 1))

    return Mutation(
        name,
        f"positions are counted from {abs(by)} {'more' if by > 0 else 'less'}",
        "positions",
        _fits,
        _injector(rows, lambda first: (f"from {first + by}", f"from {first}")),
        family="models",
        on=("embeddings", "embeddings-sinusoidal"),
    )


def _halves(tensor: Any) -> Any:
    """Even columns, then the odd ones."""
    import torch

    return torch.cat([tensor[..., 0::2], tensor[..., 1::2]], dim=-1)


HALVES = Substitute(waves, _halves, ("sines, then cosines", "in turn"))


def cached_one_on(call: TorchCall) -> Any:
    """Places that are counted on from those before are one too far."""
    if len(call.args) < 2 or not all(type(n) is int for n in call.args[:2]) or call.args[0] < 1:
        return PASS
    first, end, *rest = call.args
    call.hits.add("one further than where the cache ends", "from where the cache ends")
    return call.function(first + 1, end + 1, *rest, **call.kwargs)


POSITIONS = [
    Mutation("cache-position", "the places of tokens after those of a cache are one too far", "positions",
             uses("arange"), calling(("arange",), cached_one_on), family="models", on=("cached attention",)),
    _moved("position-off-by-one", 1),
    _moved("position-off-by-two", 2),
    _moved("position-one-back", -1),
    _moved("position-two-back", -2),
    Mutation("position-missing", "positions are not added", "positions", _fits,
             _injector(lambda table, ids, axis: table.index_select(axis, ids) * 0, lambda first: ("none", "added")),
             family="models", on=("embeddings",)),
    Mutation("position-halves", "sines in one half and cosines in the other, not in turn", "positions",
             waves, HALVES.inject, family="models", on=("embeddings-sinusoidal",)),
]  # fmt: skip
