"""Inputs that stress a module: what a port gets wrong shows at the edges, not on N(0, 1)."""

from dataclasses import replace
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case

EXACT = ("float64",)


def token_cases(
    width: int,
    tokens: int = 5,
    batch: int = 3,
    *,
    context: int | None = None,
    mean: float = 10.0,
    seed: int = 0,
) -> list[Case]:
    """The usual cases of a module that takes `(b, t, width)` and `(t, width)`.

    Args:
        width: size of the last axis.
        tokens: `t` of the ordinary cases.
        batch: `b` of the batched cases.
        context: the full context length, where the module has one; adds a case with that many tokens.
        mean: the mean of the "large mean" case, whose standard deviation is 1.
        seed: seed of the numbers.
    """
    draw = np.random.default_rng(seed).standard_normal
    cases = [
        Case("plain", (draw((batch, tokens, width)),)),
        Case("large mean", (mean + draw((batch, tokens, width)),)),
        Case("tiny variance", (1e-3 * draw((batch, tokens, width)),)),
        Case("unbatched", (draw((tokens, width)),), lanes=EXACT),
        Case("one token", (draw((batch, 1, width)),), lanes=EXACT),
    ]
    if context is not None:
        cases.append(Case("full context", (draw((batch, context, width)),), lanes=EXACT))
    return cases


def batched_token_cases(width: int) -> list[Case]:
    """Those of the usual cases that are of one shape, for a row beside others of its class."""
    return token_cases(width)[:3]


def mask_cases(
    width: int, tokens: int = 5, batch: int = 3, *, name: str = "mask", seed: int = 1
) -> list[Case]:
    """Calls with a boolean mask, True = attend, as keyword `name`: `(b, t)`, `(b, t, t)`, and without `b`.

    Each mask leaves something with nothing to attend to: the last sequence is all padding, and among the
    pairs there is a fully masked row.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    padding, pairs = _masks(rng, batch, tokens, tokens)
    return [
        Case("padding", (x,), {name: padding}),
        Case("pairs", (x,), {name: pairs}, EXACT),
        Case("unbatched padding", (x[1],), {name: padding[1]}, EXACT),
        Case("unbatched pairs", (x[0],), {name: pairs[0]}, EXACT),
    ]


def routing_cases(width: int, tokens: int = 5, batch: int = 3, *, seed: int = 7) -> list[Case]:
    """Calls of a mixture of experts: alone, and with padding and the router's losses."""
    x = np.random.default_rng(seed).standard_normal((batch, tokens, width))
    padding = np.arange(tokens) < np.linspace(tokens, 0, batch).astype(int)[:, None]
    losses = {"mask": padding, "return_losses": True}
    return [
        Case("plain", (x,)),
        Case("padding, with losses", (x,), losses),
        Case("one token, unbatched, with losses", (x[0, :1],), {"return_losses": True}, EXACT),
    ]


def cross_cases(width: int, tokens: int = 5, others: int = 7, batch: int = 3, *, seed: int = 2) -> list[Case]:
    """Calls with a `context` of another length than the input, with and without a mask over it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    context = rng.standard_normal((batch, others, width))
    padding, pairs = _masks(rng, batch, tokens, others)
    return [
        Case("shorter than its context", (x, context)),
        Case("longer than its context", (context, x), lanes=EXACT),
        Case("padding in the context", (x, context), {"mask": padding}, EXACT),
        Case("pairs of each head", (x, context), {"mask": pairs[:, None]}),
        Case("unbatched", (x[0], context[0]), {"mask": pairs[0]}, EXACT),
    ]


def sequence_cases(width: int, tokens: int = 11, batch: int = 3, *, seed: int = 7) -> list[Case]:
    """Calls of an attention that knows where tokens stand: padding on the left, packed segments, far positions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    place = np.arange(tokens)
    starts = np.linspace(0, tokens, batch).astype(int)[:, None]  # the last sequence is nothing but padding
    left = place >= starts
    segments = np.broadcast_to(place * 3 // tokens, (batch, tokens))
    return [
        Case("plain", (x,)),
        Case("one token", (x[:, :1],), lanes=EXACT),
        Case("padding on the left", (x,), {"mask": left, "positions": (place - starts) * left}, EXACT),
        Case("packed", (x,), {"segment_ids": segments, "positions": np.stack([place % 4] * batch)}, EXACT),
        Case("far positions", (x,), {"positions": 100_003 + np.stack([place] * batch)}, EXACT),
    ]


def option_cases(width: int, tokens: int = 5, batch: int = 3) -> list[Case]:
    """A call as it comes, and one with a mask that closes a row."""
    plain, *_ = token_cases(width, tokens, batch)
    _, pairs, *_ = mask_cases(width, tokens, batch)
    return [plain, pairs]


def query_key_value_cases(
    embed_dim: int,
    kdim: int | None = None,
    vdim: int | None = None,
    tokens: int = 5,
    others: int = 7,
    batch: int = 3,
    *,
    batch_first: bool = False,
    seed: int = 5,
    **options: Any,
) -> list[Case]:
    """Calls with a query and with keys and values of another length; `options` go along with each."""
    draw = np.random.default_rng(seed).standard_normal
    x = draw((batch, tokens, embed_dim))
    key = draw((batch, others, embed_dim if kdim is None else kdim))
    value = draw((batch, others, embed_dim if vdim is None else vdim))

    def call(name: str, *arrays: np.ndarray, lanes: tuple[str, ...] | None = None) -> Case:
        placed = tuple(a if batch_first or a.ndim == 2 else a.swapaxes(0, 1) for a in arrays)
        return Case(name, placed, options, lanes)

    return [
        *([call("to itself", x, x, x, lanes=EXACT)] if kdim is vdim is None else []),
        call("fewer queries than keys", x, key, value),
        call("fewer keys than queries", x, key[:, :2], value[:, :2], lanes=EXACT),
        call("one key", x, key[:, :1], value[:, :1], lanes=EXACT),
        call("large mean", 3 + x, 3 + key, 3 + value),
        call("unbatched", x[0], key[0], value[0], lanes=EXACT),
    ]


def torch_mask_cases(
    embed_dim: int,
    num_heads: int,
    tokens: int = 5,
    others: int = 7,
    batch: int = 3,
    *,
    seed: int = 6,
    **options: Any,
) -> dict[str, list[Case]]:
    """Calls with the masks of `torch.nn.MultiheadAttention` (True = masked), sequence first, by kind.

    Every query keeps a key, for torch's weights are NaN where it keeps none.
    """
    rng = np.random.default_rng(seed)
    x, memory = (rng.standard_normal((n, batch, embed_dim)) for n in (tokens, others))
    padding = np.arange(others) >= np.linspace(others, 1, batch).astype(int)[:, None]
    pairs = rng.random((batch * num_heads, tokens, others)) < 0.4
    pairs[..., 0] = False
    added = rng.standard_normal(pairs.shape)
    barred = np.where(pairs, -np.inf, added)
    zeros = np.where(padding, -np.inf, 0.0)

    def call(name: str, **masks: np.ndarray) -> Case:
        return Case(name, (x, memory, memory), {**masks, **options})

    def unbatched(name: str, **masks: np.ndarray) -> Case:
        return Case(name, (x[:, 1], memory[:, 1], memory[:, 1]), {**masks, **options})

    kinds = {
        "padding": [
            call("padding", key_padding_mask=padding),
            call("added padding", key_padding_mask=zeros + added[:batch, 0]),
            unbatched("unbatched padding", key_padding_mask=padding[1]),
        ],
        "boolean": [
            call("pairs", attn_mask=pairs[0]),
            call("pairs of each head", attn_mask=pairs),
            unbatched("unbatched pairs of each head", attn_mask=pairs[:num_heads]),
        ],
        "float": [
            call("added pairs", attn_mask=added[0]),
            call("added pairs of each head, some -inf", attn_mask=barred),
        ],
        "both": [
            call("padding and pairs", key_padding_mask=padding, attn_mask=pairs[0]),
            call("added padding and pairs of each head", key_padding_mask=zeros, attn_mask=barred),
        ],
    }
    return {
        kind: [first, *(replace(case, lanes=EXACT) for case in others)]
        for kind, (first, *others) in kinds.items()
    }


def token_id_cases(
    vocab_size: int,
    tokens: int = 5,
    batch: int = 3,
    *,
    context: int,
    segments: int = 2,
    segment_name: str = "token_type_ids",
    seed: int = 3,
) -> list[Case]:
    """Calls of a module that takes token ids and, as keyword `segment_name`, segment ids."""
    rng = np.random.default_rng(seed)

    def ids(*shape: int) -> np.ndarray:
        drawn = rng.integers(vocab_size, size=shape)
        drawn.flat[:2] = 0, vocab_size - 1  # both ends of the table
        return drawn

    plain = ids(batch, tokens)
    return [
        Case("plain", (plain,)),
        Case("two segments", (plain,), {segment_name: rng.integers(segments, size=plain.shape)}, EXACT),
        Case("one token repeated", (np.full((batch, tokens), 1),)),
        Case("unbatched", (plain[0],), lanes=EXACT),
        Case("one token", (ids(batch, 1),), lanes=EXACT),
        Case("full context", (ids(batch, context),), lanes=EXACT),
    ]


def batched_id_cases(vocab_size: int) -> list[Case]:
    """Token ids alone, of one shape, for a row beside others of its class."""
    plain, _, repeated, *_ = token_id_cases(vocab_size, context=5)
    return [plain, repeated]


def grid_cases(shape: tuple[int, ...], batch: int = 3, *, seed: int = 8) -> list[Case]:
    """Calls of a module that takes images `(b, h, w, c)` or spectrograms `(b, t, c)`, here of one shape."""
    x = np.random.default_rng(seed).standard_normal((batch, *shape))
    return [
        Case("plain", (x,)),
        Case("large mean", (10.0 + x,)),
        Case("unbatched", (x[0],), lanes=EXACT),
    ]


def hidden_patch_cases(
    shape: tuple[int, ...], patches: int, batch: int = 3, *, name: str = "hidden", seed: int = 10
) -> list[Case]:
    """Calls with images and with some of their patches hidden, all of those of the last."""
    plain, *_, alone = grid_cases(shape, batch, seed=seed)
    hidden = np.random.default_rng(seed).random((batch, patches)) < 0.4
    hidden[0, 0], hidden[-1] = True, True
    return [
        plain,
        Case("hidden patches", plain.args, {name: hidden}),
        Case("unbatched hidden patches", alone.args, {name: hidden[0]}, EXACT),
    ]


def table_cases(
    width: int,
    vocab_size: int,
    table_width: int | None = None,
    tokens: int = 5,
    batch: int = 3,
    *,
    seed: int = 9,
) -> list[Case]:
    """Calls of a head with vectors and the table of the embeddings, which may be narrower."""
    draw = np.random.default_rng(seed).standard_normal
    x = draw((batch, tokens, width))
    table = draw((vocab_size, width if table_width is None else table_width))
    return [Case("plain", (x, table)), Case("unbatched", (x[0], table), lanes=EXACT)]


def pooling_cases(width: int, tokens: int = 5, batch: int = 3, *, seed: int = 10) -> list[Case]:
    """Calls with and without a mask of padding: behind, in front, and of nothing else."""
    x = np.random.default_rng(seed).standard_normal((batch, tokens, width))
    mask = np.arange(tokens) < np.linspace(tokens, 0, batch).astype(int)[:, None]
    mask[0, 0] = False
    return [
        Case("plain", (x,)),
        Case("padding", (x,), {"mask": mask}),
        Case("unbatched padding", (x[1],), {"mask": mask[1]}, EXACT),
    ]


def text_cases(
    vocab_size: int, tokens: int = 5, batch: int = 3, *, context: int, segments: int = 2, seed: int = 3
) -> list[Case]:
    """What a tokenizer gives: ids, an attention mask (the last sequence is nothing but padding), segments."""
    plain, _, repeated, _, one_token, full = token_id_cases(
        vocab_size, tokens, batch, context=context, segments=segments, seed=seed
    )
    (ids,) = full.args
    padding = np.arange(context) < np.linspace(context, 0, batch).astype(int)[:, None]
    of_segment = np.random.default_rng(seed).integers(segments, size=ids.shape)
    exact = [replace(case, lanes=EXACT) for case in (plain, repeated, one_token)]
    return [*exact, Case("full context", (ids, padding.astype(np.int64), of_segment))]


def translation_cases(
    vocab_size: int, source_tokens: int = 7, tokens: int = 5, batch: int = 3, *, seed: int = 11
) -> list[Case]:
    """Ids of a source and of a target, with padding behind and before; the last source is nothing else."""
    rng = np.random.default_rng(seed)
    source, target = (rng.integers(vocab_size, size=(batch, size)) for size in (source_tokens, tokens))
    behind = np.arange(source_tokens) < np.linspace(source_tokens, 0, batch).astype(int)[:, None]
    before = np.arange(tokens) >= np.linspace(0, tokens - 1, batch).astype(int)[:, None]
    return [
        Case("plain", (source, target)),
        Case("padding in both", (source, target, behind, before.astype(np.int64)), lanes=EXACT),
        Case("unbatched", (source[0], target[0]), lanes=EXACT),
    ]


def _masks(rng: np.random.Generator, batch: int, queries: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Padding `(b, s)`, whose last sequence is nothing else, and pairs `(b, t, s)` with a row that is closed."""
    lengths = np.linspace(keys, 0, batch).astype(int)
    pairs = rng.random((batch, queries, keys)) < 0.6
    pairs[0, 1] = False
    return np.arange(keys) < lengths[:, None], pairs
