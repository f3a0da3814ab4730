"""Every two options of attention together, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.dropout import keep_masks_from
from jax_attn.nn import AlibiPositions, MultiHeadAttention, RotaryPositions, ShawPositions, T5Positions
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.nn.attention.covering import Row, covering_array
from parity_tests.nn.attention.oracle import multi_head_attention

BATCH, TOKENS, HEADS, WIDTH = 3, 7, 6, 4
RATE = 0.25

FACTORS = {
    "positions": (None, "rotary", "interleaved", "alibi", "t5", "shaw"),
    "mask": (
        "none",
        "causal",
        "padding",
        "pairs",
        "pairs of each head",
        "segments",
        "window",
        "causal window",
        "mask mod",
        "causal mask mod",
    ),
    "kv_heads": (6, 3, 1),
    "qk_norm": (None, "rms", "layer"),
    "softcap": (None, 1.5),
    "sinks": (None, "learned", "off_by_one"),
    "cache": (None, (7,), (4, 1, 2)),
    "dropout": (0.0, RATE),
}


def can_be(row: Row) -> bool:
    """A cache is for causal attention; given masks of dropout do not know the order of a rolling one."""
    causal, window = row["mask"].startswith("causal"), "window" in row["mask"]
    return row["cache"] is None or (causal and not (window and row.get("dropout")))


ROWS = covering_array(FACTORS, can_be)

# Without what is another form of a neighbour; all of it is among the slow tests.
FORMS = ("interleaved", "pairs", "window", "mask mod")
FEWER = {name: tuple(value for value in values if value not in FORMS) for name, values in FACTORS.items()}
FEWER_ROWS = covering_array(FEWER, can_be)


def one_of_three(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx) % 3 != 1


def make_positions(kind: str | None, rngs: nnx.Rngs):
    kinds = {
        "rotary": lambda: RotaryPositions(WIDTH),
        "interleaved": lambda: RotaryPositions(WIDTH, interleaved=True),
        "alibi": lambda: AlibiPositions(HEADS),
        "t5": lambda: T5Positions(HEADS, 8, 16, bidirectional=False, rngs=rngs, param_dtype=jnp.float64),
        "shaw": lambda: ShawPositions(WIDTH, 2, rngs=rngs, param_dtype=jnp.float64),
    }
    return None if kind is None else kinds[kind]()


def build(row: Row) -> MultiHeadAttention:
    rngs = nnx.Rngs(0)
    module = MultiHeadAttention(
        26,
        HEADS,
        row["kv_heads"],
        head_dim=WIDTH,
        dropout=row["dropout"],
        is_causal=row["mask"].startswith("causal"),
        window=3 if "window" in row["mask"] else None,
        mask_mod=one_of_three if "mod" in row["mask"] else None,
        positions=make_positions(row["positions"], rngs),
        softcap=row["softcap"],
        qk_norm=row["qk_norm"],
        sinks=row["sinks"],
        rngs=rngs,
        param_dtype=jnp.float64,
    )
    for name in ("q_norm", "k_norm"):  # a scale of 1 would hide a scale that is forgotten
        if getattr(module, name) is not None:
            getattr(module, name).scale[...] = 1 + 0.5 * draw(WIDTH, seed=3)
    return module


def masks_of(kind: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arguments of the call, and what is seen, `(B, N, T, T)`."""
    rng = np.random.default_rng(1)
    query, key = np.indices((TOKENS, TOKENS))
    seen = np.ones((BATCH, HEADS, TOKENS, TOKENS), bool)
    arguments = {}
    if "causal" in kind:
        seen &= key <= query
    if "window" in kind:
        seen &= abs(key - query) < 3
    if "mod" in kind:
        seen &= one_of_three(0, 0, query, key)
    if kind == "padding":
        real = np.arange(TOKENS) < np.array([[7], [4], [0]])
        arguments, seen = {"mask": real}, seen & real[:, None, None]
    if kind.startswith("pairs"):
        pairs = rng.random((BATCH, HEADS if "head" in kind else 1, TOKENS, TOKENS)) < 0.6
        pairs[0, :, 1] = False
        arguments, seen = {"mask": pairs}, seen & pairs
    if kind == "segments":
        ids = np.array([[0, 0, 0, 1, 1, 2, 2]] * BATCH)
        arguments, seen = {"segment_ids": ids}, seen & (ids[:, None, :, None] == ids[:, None, None, :])
    return arguments, seen


def weights_of(module: MultiHeadAttention) -> dict[str, np.ndarray]:
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}


def run(module: MultiHeadAttention, row: Row, x, arguments, keep) -> jax.Array:
    """The output, whole or through a cache, with these weights kept by dropout."""
    done = 0

    def kept(key, probability, shape):
        return jnp.asarray(keep[:, :, done : done + shape[2], : shape[3]])

    with keep_masks_from(kept):
        if row["cache"] is None:
            return module(x, **arguments)
        cache, outputs = module.init_cache(BATCH, TOKENS), []
        for size in row["cache"]:
            output, cache = module(x[:, done : done + size], cache=cache)
            outputs.append(output)
            done += size
        return jnp.concatenate(outputs, axis=1)


@pytest.mark.parametrize(("factors", "rows", "least"), [(FACTORS, ROWS, 60), (FEWER, FEWER_ROWS, 30)])
def test_there_are_enough_rows_and_they_show_every_pair(factors, rows, least):
    assert len(rows) >= least
    for one, other in ((a, b) for a in factors for b in factors if a < b):
        shown = {(row[one], row[other]) for row in rows}
        expected = {(x, y) for x in factors[one] for y in factors[other]}
        if {one, other} == {"mask", "cache"}:
            expected = {(x, y) for x, y in expected if can_be({one: x, other: y})}
        assert shown == expected


@pytest.mark.parametrize(
    "row",
    [*FEWER_ROWS, *(pytest.param(row, marks=pytest.mark.slow) for row in ROWS if row not in FEWER_ROWS)],
    ids=lambda row: "-".join(map(str, row.values())).replace(" ", "_"),
)
@jax.enable_x64(True)
def test_it_is_the_definition(row):
    module, x = build(row), draw(BATCH, TOKENS, 26)
    masks, seen = masks_of(row["mask"])
    arguments = {name: jnp.asarray(array) for name, array in masks.items()}
    keep = np.random.default_rng(2).random(seen.shape) < 1 - RATE
    expected = multi_head_attention(
        weights_of(module),
        np.asarray(x),
        heads=HEADS,
        kv_heads=row["kv_heads"],
        seen=seen,
        positions=row["positions"],
        qk_norm=row["qk_norm"],
        softcap=row["softcap"],
        sinks=row["sinks"],
        keep=keep if row["dropout"] else None,
        rate=row["dropout"],
    )
    graphdef, state = nnx.split(module)
    output = compiled(lambda state, x: run(nnx.merge(graphdef, state), row, x, arguments, keep))(state, x)
    assert_same(output, expected)
