"""Mutations of positions that are added: a table that is looked up, or one that is cut to length."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Forward, Hits, watch
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.weights import Substitute

PLACES = ("position", "wpe", "pos_emb", "pos_embed")


def tables(module: Any) -> dict[str, Any]:
    """Tables of positions that are not looked up by ids: parameters and buffers of what is called so."""
    import torch

    found = {}
    for path, child in module.named_modules():
        looked_up = (
            isinstance(child, torch.nn.Embedding) and type(child).forward is torch.nn.Embedding.forward
        )
        for name, tensor in () if looked_up else _own(child):
            called = any(word in f"{path}.{type(child).__name__}.{name}".lower() for word in PLACES)
            if called and tensor.ndim in (2, 3) and tensor.is_floating_point():
                found[f"{path}.{name}".lstrip(".")] = tensor
    return found


def _own(module: Any) -> list[tuple[str, Any]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def waves(module: Any) -> dict[str, Any]:
    """Tables of positions that are constants."""
    constants = {id(buffer) for buffer in module.buffers()}
    return {key: tensor for key, tensor in tables(module).items() if id(tensor) in constants}


def halves(module: Any, tensor: Any, name: str) -> Any:
    """Even columns, then the odd ones."""
    import torch

    return torch.cat([tensor[..., 0::2], tensor[..., 1::2]], dim=-1)


def _counts(ids: Any) -> bool:
    """Whether ids count up, one by one."""
    plain = ids.ndim > 0 and ids.shape[-1] > 1 and not ids.is_floating_point()
    return plain and bool((ids[..., 1:] - ids[..., :-1] == 1).all())


def looked_up(instead: Callable[[Any, Any], Any], words: Callable[[Any], tuple[str, str]]) -> Any:
    """`instead(ids, table)` where ids that count up are looked up, or a table of that name."""

    def caught(
        forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name != "embedding" or len(args) < 2:
            return PASS
        named = [
            id(p) for key, p in forward.module.named_parameters() if any(w in key.lower() for w in PLACES)
        ]
        if not (_counts(args[0]) or id(args[1]) in named):
            return PASS
        forward.hits.add(*words(args[0]))
        return instead(args[0], args[1])

    return caught


def _injector(
    instead: Any, of_table: Any, words: tuple[str, str], of_ids: Any
) -> Callable[[Any, Hits], None]:
    def inject(module: Any, hits: Hits) -> None:
        Substitute(tables, of_table, words).inject(module, hits)
        watch(module, looked_up(instead, of_ids), hits)

    return inject


def _fits(module: Any) -> bool:
    """Whether positions are added, as far as names tell: a table that is looked up may be one."""
    import torch

    return bool(tables(module)) or any(isinstance(child, torch.nn.Embedding) for child in module.modules())


_mutation = partial(Mutation, family="models", pitfalls=(16,))


MOVED = {
    1: "position-off-by-one",
    2: "position-off-by-two",
    -1: "position-one-back",
    -2: "position-two-back",
}


def moved(by: int) -> Mutation:
    """Positions are counted from another number; those beyond the table are its first or last."""

    def rows(table: Any, ids: Any, axis: int) -> Any:
        return table.index_select(axis, (ids + by).clamp(0, table.shape[axis] - 1))

    def instead(ids: Any, table: Any) -> Any:
        return rows(table, ids.flatten(), 0).reshape(*ids.shape, -1)

    def of_table(module: Any, table: Any, name: str) -> Any:
        import torch

        return rows(table, torch.arange(table.shape[-2], device=table.device), table.ndim - 2)

    def of_ids(ids: Any) -> tuple[str, str]:
        return f"from {int(ids.min()) + by}", f"from {int(ids.min())}"

    injector = _injector(instead, of_table, (f"from {by}", "from 0"), of_ids)
    far = f"positions are counted from {abs(by)} {'more' if by > 0 else 'less'}"
    return _mutation(MOVED[by], far, "positions", _fits, injector, on=("embeddings", "embeddings-sinusoidal"))


def _none(ids: Any, table: Any) -> Any:
    return table[ids] * 0


HALVES = Substitute(waves, halves, ("sines, then cosines", "in turn"))

POSITIONS = [
    *(moved(by) for by in MOVED),
    _mutation("position-missing", "positions are not added", "positions", _fits,
           _injector(_none, lambda module, table, name: table.new_zeros(table.shape), ("none", "added"),
                     lambda ids: ("none", "added")), on=("embeddings",)),
    _mutation("position-halves", "sines in one half and cosines in the other, not in turn",
           "positions", HALVES.fits, HALVES.inject, on=("embeddings-sinusoidal",)),
]  # fmt: skip
