"""Mutations of whole models: embeddings, segments, the token that speaks for a text, layers left out."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import MULTIPLY, PASS, Forward, Hits, uses, watch, wrap
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import PRODUCTS
from jax_attn.parity.mutations.positions import PLACES, POSITIONS


def _embeddings(module: Any) -> list[tuple[str, Any]]:
    """The token embeddings, and those of segments: what is called with ids."""
    import torch

    plain = torch.nn.Embedding.forward
    return [
        (path, child)
        for path, child in module.named_modules()
        if isinstance(child, torch.nn.Embedding) and type(child).forward is plain
    ]


def _called(module: Any, *words: str) -> list[Any]:
    return [child for path, child in _embeddings(module) if any(word in path.lower() for word in words)]


SEGMENTS = ("segment", "token_type")


def _tokens(module: Any) -> list[Any]:
    others = _called(module, *SEGMENTS, *PLACES)
    return [child for _, child in _embeddings(module) if not any(child is other for other in others)]


def scaled_embedding(module: Any, hits: Hits) -> None:
    """Times the root of the width, as in the first transformer."""

    def around(table: Any, forward: Any, ids: Any) -> Any:
        hits.add("times sqrt(width)", "as it is")
        return forward(ids) * table.embedding_dim**0.5

    wrap(_tokens(module)[0], around)


def unscaled_embedding(
    forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What is looked up is not multiplied by a number."""
    found = forward.state.setdefault("looked up", {})
    if name == "embedding":
        value = function(*args, **kwargs)
        found[id(value)] = value
        return value
    if name in MULTIPLY and len(args) > 1:
        for vectors, number in (args[:2], args[1::-1]):
            single = isinstance(number, int | float) or getattr(number, "numel", lambda: 2)() == 1
            if id(vectors) in found and single and float(number) != 1.0:
                forward.hits.add("as it is", f"times {float(number):.7g}")
                return vectors * 1
    return PASS


def _tables(module: Any) -> dict[int, Any]:
    return {id(table.weight): table.weight for _, table in _embeddings(module)}


def tie_lost(
    forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What else an embedding's weight is used for gives it no gradient."""
    if "tables" not in forward.state:
        forward.state["tables"] = _tables(forward.module)
    tables = forward.state["tables"]
    if name not in (*PRODUCTS, "linear", "t", "transpose", "permute") or not any(
        id(a) in tables for a in args
    ):
        return PASS
    forward.hits.add("of the embedding alone", "of the embedding and of what is tied to it")
    return function(*(a.detach() if id(a) in tables else a for a in args), **kwargs)


def padding_row(module: Any, hits: Hits) -> None:
    """Id 0 is taken for padding, whose vector is 0."""

    def around(table: Any, forward: Any, ids: Any) -> Any:
        if (ids == 0).any():
            hits.add("padding, a vector of zeros", "a token")
        return forward(ids) * (ids != 0)[..., None]

    wrap(_tokens(module)[0], around)


def off_by_one(module: Any, hits: Hits) -> None:
    """Ids are counted from 1, and the last is clamped."""

    def around(table: Any, forward: Any, ids: Any) -> Any:
        hits.add("from 1, and clamped", "from 0")
        return forward((ids + 1).clamp(max=table.num_embeddings - 1))

    wrap(_tokens(module)[0], around)


def no_segments(module: Any, hits: Hits) -> None:
    """Segment 0 throughout."""

    def around(table: Any, forward: Any, ids: Any) -> Any:
        if ids.any():
            hits.add("0 throughout", "as given")
        return forward(ids * 0)

    wrap(_called(module, *SEGMENTS)[0], around)


def _pooling(word: str, instead: Callable[[Any, int], Any]) -> Any:
    """Another vector where `x[..., 0, :]` or `x[:, 0]` is taken."""

    def caught(
        forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        axis = _first_of(args) if name == "__getitem__" else None
        if axis is None or args[0].shape[axis] == 1:
            return PASS
        forward.hits.add(word, "the first token")
        return instead(args[0], axis)

    return lambda module, hits: watch(module, caught, hits)


def _first_of(args: tuple[Any, ...]) -> int | None:
    """The axis along which an index takes the first vector of a sequence; None if it is another index."""
    tensor, index = args
    if not (isinstance(index, tuple) and tensor.is_floating_point() and tensor.ndim > 1):
        return None
    places = [place for place, part in enumerate(index) if isinstance(part, int) and part == 0]
    others = [part for part in index if not (isinstance(part, int) and part == 0)]
    if len(places) != 1 or not all(part is ... or part == slice(None) for part in others):
        return None
    before = index[: places[0]]
    return places[0] - len(index) if ... in before else places[0]


def left_out(place: int) -> Callable[[Any, Hits], None]:
    """A layer of a stack hands on its input."""

    def injector(module: Any, hits: Hits) -> None:
        def around(layer: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            value = forward(x, *args, **kwargs)
            first = value[0] if isinstance(value, tuple) else value
            if getattr(first, "shape", None) != getattr(x, "shape", ()):
                return value
            hits.add("left out", "run")
            return (x * 1, *value[1:]) if isinstance(value, tuple) else x * 1

        wrap(_stack(module)[place], around)

    return injector


def _stack(module: Any) -> list[Any]:
    """The layers of the first stack of them: modules of one class in a list, with modules in them."""
    import torch

    for child in module.modules():
        layers = list(child) if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) else []
        if len(layers) > 1 and len({type(layer) for layer in layers}) == 1 and list(layers[0].children()):
            return layers
    return []


def takes_first_token(module: Any) -> bool:
    """Whether a module is one that speaks for a text, as far as its name tells."""
    names = (f"{path}.{type(child).__name__}".lower() for path, child in module.named_modules())
    return any(word in name for name in names for word in ("pool", "classif", "cls"))


_mutation = partial(Mutation, family="models")


MODELS = [
    _mutation("embedding-scaled", "token embeddings times sqrt(width)", "token embedding",
           lambda module: bool(_tokens(module)), scaled_embedding, pitfalls=(9,), on=("embeddings",)),
    _mutation("embedding-unscaled", "token embeddings are not multiplied by a number", "token embedding",
           lambda module: bool(_embeddings(module)),
           lambda module, hits: watch(module, unscaled_embedding, hits), pitfalls=(9,), on=("tied head",)),
    _mutation("tie-lost", "a weight that is tied to the embedding is another one", "gradient of a tied weight",
           lambda module: bool(_embeddings(module)) and uses("linear", "Linear", *PRODUCTS)(module),
           lambda module, hits: watch(module, tie_lost, hits), on=("tied head",)),
    _mutation("embedding-padding", "id 0 is taken for padding", "token embedding",
           lambda module: bool(_tokens(module)), padding_row, pitfalls=(43,), on=("embeddings",)),
    _mutation("ids-off-by-one", "ids counted from 1, the last one clamped", "token ids",
           lambda module: bool(_tokens(module)), off_by_one, pitfalls=(43,), on=("embeddings",)),
    _mutation("segments-ignored", "segment ids are ignored", "segment ids",
           lambda module: bool(_called(module, *SEGMENTS)), no_segments, on=("embeddings",)),
    _mutation("pooled-last", "the last token's vector for the first's", "pooled token", takes_first_token,
           _pooling("the last token", lambda x, axis: x.select(axis, -1)),
           on=("pooler", "classification-head")),
    _mutation("pooled-mean", "the mean of all vectors for the first's", "pooled token", takes_first_token,
           _pooling("the mean", lambda x, axis: x.mean(axis)), on=("pooler",)),
    _mutation("layer-missing", "the last layer of a stack is left out", "layers",
           lambda module: bool(_stack(module)), left_out(-1), on=("encoder",)),
    _mutation("first-layer-missing", "the first layer of a stack is left out", "layers",
           lambda module: bool(_stack(module)), left_out(0), on=("encoder",)),
    *POSITIONS,
]  # fmt: skip
