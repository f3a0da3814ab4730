"""Compiles sharded attention on 8 simulated devices, and prints as JSON what each program moves.

The programs are those of training, which hold the forward pass, and on a mesh of explicit axes a few; with `--all`
all of them on both, and those of a forward pass alone too.
"""

import collections
import contextlib
import json
import re
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_attn import create_block_mask, dot_product_attention, flex_attention
from jax_attn.functional import mask_mods

ALL = "--all" in sys.argv
FEW = ("both, grouped heads", "bias and sinks", "dropout, remat")
B, T, N, H = 8, 384, 8, 16
DATA, HEADS = PartitionSpec("data"), PartitionSpec(None, None, "heads")
BOTH = PartitionSpec("data", None, "heads")
MOVES = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def moves(f, *args) -> dict[str, int]:
    return dict(collections.Counter(MOVES.findall(jax.jit(f).lower(*args).compile().as_text())))


def both_passes(f, *args) -> dict[str, dict[str, int]]:
    def gradients(*args):
        output, pull = jax.vjp(f, *args)
        return output, pull(output)

    forward = {"forward": moves(f, *args)} if ALL else {}
    return {**forward, "backward": moves(gradients, *args)}


def array(mesh, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def ids(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 64 + 64 * b)


def calls(kind: AxisType) -> dict[str, dict[str, dict[str, int]]]:
    mesh = jax.make_mesh((4, 2), ("data", "heads"), axis_types=(kind,) * 2)
    found = {}

    def add(name, f, spec=BOTH, kv_heads=N, kv_spec=None, **arrays):
        if kind is AxisType.Explicit and not ALL and name not in FEW:
            return
        q = array(mesh, (B, T, N, H), spec)
        k = array(mesh, (B, T, kv_heads, H), spec if kv_spec is None else kv_spec)
        given = [array(mesh, *x) for x in arrays.values()]

        def run(q, k, v):
            return f(q, k, v)

        if given:  # not differentiated: what is shared by all devices would have to be added up

            def fixed(q, k, v, *x):
                output, pull = jax.vjp(lambda *o: f(*o, *x), q, k, v)
                return output, pull(q)

            forward = {"forward": moves(f, q, k, k, *given)} if ALL else {}
            found[name] = {**forward, "backward": moves(fixed, q, k, k, *given)}
        else:
            found[name] = both_passes(run, q, k, k)

    attend = dot_product_attention
    causal = lambda q, k, v: attend(q, k, v, is_causal=True)  # noqa: E731
    context = jax.set_mesh(mesh) if kind is AxisType.Explicit else contextlib.nullcontext()
    with context:
        add("batch", causal, DATA)
        add("heads", causal, HEADS)
        add("both, grouped heads", causal, kv_heads=4)
        mask = ((B, 1, T, T), DATA, jnp.bool_)
        lengths = ((B,), DATA, jnp.int32)
        add(
            "mask and lengths",
            lambda q, k, v, m, n: attend(q, k, v, None, m, key_value_seq_lengths=n),
            m=mask,
            n=lengths,
        )
        bias = ((B, N, T, T), PartitionSpec("data", "heads"))
        sinks = ((N,), PartitionSpec("heads"))
        add("bias and sinks", lambda q, k, v, b, s: attend(q, k, v, b, sinks=s), b=bias, s=sinks)
        options = {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}
        add("dropout, remat", jax.checkpoint(lambda q, k, v: attend(q, k, v, **options)))
        block_mask = create_block_mask(ids, B, None, T, T)
        add("block mask of batch entries", lambda q, k, v: flex_attention(q, k, v, None, block_mask))
        if kind is AxisType.Auto:

            def packed(q, k, v, ids):
                mask = create_block_mask(mask_mods.document(ids), B, None, T, T)
                return flex_attention(q, k, v, None, mask)

            add("packed documents", packed, ids=((B, T), DATA, jnp.int32))
            one = lambda q, k, v: attend(q, k, v, is_causal=True, implementation="blockwise")  # noqa: E731
            add("vmap", jax.vmap(one))
            inner = jax.shard_map(one, mesh=mesh, in_specs=(BOTH,) * 3, out_specs=BOTH)
            add("shard_map", inner)
    return found


def over_positions() -> dict[str, dict[str, int]]:
    """What the forward pass moves where all operands are sharded over their positions."""
    mesh = jax.make_mesh((8,), ("positions",), axis_types=(AxisType.Auto,))

    def x(length, heads):
        return array(mesh, (2, length, heads, H), PartitionSpec(None, "positions"))

    def causal(q, k, v):
        return dot_product_attention(q, k, v, is_causal=True)

    def padded(q, k, v, n):
        return dot_product_attention(q, k, v, key_value_seq_lengths=n)

    return {
        "causal": moves(causal, *[x(512, 4)] * 3),
        "lengths": moves(padded, *[x(512, 4)] * 3, jax.ShapeDtypeStruct((2,), jnp.int32)),
        "a length of no blocks of 128": moves(causal, *[x(1920, 4)] * 3),
        "a length of 16 blocks of 65": moves(causal, *[x(1032, 4)] * 3),
        "few tokens, grouped heads": moves(causal, x(64, 4), x(64, 2), x(64, 2)),
    }


if __name__ == "__main__":
    found = {kind.name: calls(kind) for kind in (AxisType.Auto, AxisType.Explicit)}
    print(json.dumps({**found, "over positions": over_positions()}))
