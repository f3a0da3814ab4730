"""Mutations of whole models: embeddings, segments, the token that speaks for a text, layers left out."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY, uses
from jax_attn.parity.mutations.injection import PASS, Hits, TorchCall, calling, watching, wrapping
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import PRODUCTS
from jax_attn.parity.mutations.positions import PLACES, POSITIONS, is_lookup


def _embeddings(module: Any) -> list[tuple[str, Any]]:
    """The token embeddings, and those of segments: what is called with ids."""
    return [(path, child) for path, child in module.named_modules() if is_lookup(child)]


def _called(module: Any, *words: str) -> list[Any]:
    return [child for path, child in _embeddings(module) if any(word in path.lower() for word in words)]


SEGMENTS = ("segment", "token_type")


def _tokens(module: Any) -> list[Any]:
    others = _called(module, *SEGMENTS, *PLACES)
    return [child for _, child in _embeddings(module) if not any(child is other for other in others)]


def _segments(module: Any) -> list[Any]:
    return _called(module, *SEGMENTS)


def scaled_embedding(hits: Hits, table: Any, forward: Any, ids: Any) -> Any:
    """Times the root of the width, as in the first transformer."""
    hits.add("sqrt(width) times as large", "as it is")
    return forward(ids) * table.embedding_dim**0.5


def unscaled_embedding(call: TorchCall) -> Any:
    """What is looked up is not multiplied by a number."""
    found, args = call.state.setdefault("looked up", {}), call.args
    if call.name == "embedding":
        value = call.run()
        found[id(value)] = value
        return value
    if call.name in MULTIPLY and len(args) > 1:
        for vectors, number in (args[:2], args[1::-1]):
            single = isinstance(number, int | float) or getattr(number, "numel", lambda: 2)() == 1
            if id(vectors) in found and single and float(number) != 1.0:
                call.hits.add("as it is", f"times {float(number):.7g}")
                return vectors * 1
    return PASS


def tie_lost(call: TorchCall) -> Any:
    """What else an embedding's weight is used for gives it no gradient."""
    if "tables" not in call.state:
        tables = [table.weight for _, table in _embeddings(call.forward.module)]
        call.state["tables"] = {id(weight): weight for weight in tables}
    tables = call.state["tables"]
    if call.name not in (*PRODUCTS, "linear", "t", "transpose", "permute") or not any(
        id(a) in tables for a in call.args
    ):
        return PASS
    call.hits.add("of the embedding alone", "of the embedding and of what is tied to it")
    return call.function(*(a.detach() if id(a) in tables else a for a in call.args), **call.kwargs)


def padding_row(hits: Hits, table: Any, forward: Any, ids: Any) -> Any:
    """Id 0 is taken for padding, whose vector is 0."""
    if (ids == 0).any():
        hits.add("padding, a vector of zeros", "a token")
    return forward(ids) * (ids != 0)[..., None]


def off_by_one(hits: Hits, table: Any, forward: Any, ids: Any) -> Any:
    """Ids are counted from 1, and the last is clamped."""
    hits.add("from 1, and clamped", "from 0")
    return forward((ids + 1).clamp(max=table.num_embeddings - 1))


def no_segments(hits: Hits, table: Any, forward: Any, ids: Any) -> Any:
    """Segment 0 throughout."""
    if ids.any():
        hits.add("0 throughout", "as given")
    return forward(ids * 0)


def _pooling(word: str, instead: Callable[[Any, int], Any]) -> Injector:
    """Another vector where `x[..., 0, :]` or `x[:, 0]` is taken."""

    def change(call: TorchCall) -> Any:
        axis = _first_of(call.args)
        if axis is None or call.args[0].shape[axis] == 1:
            return PASS
        call.hits.add(word, "the first token")
        return instead(call.args[0], axis)

    return calling(("__getitem__",), change)


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


def left_out(hits: Hits, layer: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer hands on its input."""
    value = forward(x, *args, **kwargs)
    first = value[0] if isinstance(value, tuple) else value
    if getattr(first, "shape", None) != getattr(x, "shape", ()):
        return value
    hits.add("left out", "run")
    return (x * 1, *value[1:]) if isinstance(value, tuple) else x * 1


def _stack(module: Any) -> list[Any]:
    """The layers of the first stack of them: modules of one class in a list, with modules in them."""
    import torch

    for child in module.modules():
        layers = list(child) if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) else []
        if len(layers) > 1 and len({type(layer) for layer in layers}) == 1 and list(layers[0].children()):
            return layers
    return []


def takes_first_token(module: Any) -> bool:
    """Whether a module is one that speaks for a text, as far as its name shows."""
    names = [f"{path}.{type(child).__name__}".lower() for path, child in module.named_modules()]
    words = ("pool", "classif", "cls")
    return any(word in name for name in names for word in words) or any(n.startswith("head.") for n in names)


def _first(found: Callable[[Any], list[Any]], place: int = 0) -> Callable[[Any], list[Any]]:
    """The one of those found at a place."""
    return lambda module: [found(module)[place]]


_mutation = partial(Mutation, family="models")

MODELS = [
    _mutation("embedding-scaled", "token embeddings times sqrt(width)", "token embedding", _tokens,
              wrapping(_first(_tokens), scaled_embedding), on=("embeddings",)),
    _mutation("embedding-unscaled", "token embeddings are not multiplied by a number", "token embedding",
              _embeddings, watching(unscaled_embedding), on=("tied head",)),
    _mutation("tie-lost", "a weight that is tied to the embedding is another one", "gradient of a tied weight",
              lambda module: _embeddings(module) and uses("linear", "Linear", *PRODUCTS)(module),
              watching(tie_lost), on=("tied head",)),
    _mutation("embedding-padding", "id 0 is taken for padding", "token embedding", _tokens,
              wrapping(_first(_tokens), padding_row), on=("embeddings",)),
    _mutation("ids-off-by-one", "ids counted from 1, the last one clamped", "token ids", _tokens,
              wrapping(_first(_tokens), off_by_one), on=("embeddings",)),
    _mutation("segments-ignored", "segment ids are ignored", "segment ids", _segments,
              wrapping(_first(_segments), no_segments), on=("embeddings",)),
    _mutation("pooled-last", "the last token's vector for the first's", "pooled token", takes_first_token,
              _pooling("the last token", lambda x, axis: x.select(axis, -1)),
              on=("pooler", "classification-head")),
    _mutation("pooled-mean", "the mean of all vectors for the first's", "pooled token", takes_first_token,
              _pooling("the mean", lambda x, axis: x.mean(axis)), on=("pooler",)),
    _mutation("layer-missing", "the last layer of a stack is left out", "layers", _stack,
              wrapping(_first(_stack, -1), left_out), on=("encoder",)),
    _mutation("first-layer-missing", "the first layer of a stack is left out", "layers", _stack,
              wrapping(_first(_stack), left_out), on=("encoder",)),
    *POSITIONS,
]  # fmt: skip
