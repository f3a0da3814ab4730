"""Attends in a ring of simulated devices, and prints as JSON how far that is from attention on one device."""

import collections
import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn import create_block_mask, dot_product_attention, flex_attention
from jax_attn.functional import mask_mods
from jax_attn.parity.runners.quick import quick_options
from jax_attn.training import make_mesh

B, T, N, K, H = 2, 300, 4, 2, 8
MOVES = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


QUERY, KEY, VALUE = draw(B, T, N, H), draw(B, T, K, H), draw(B, T, K, 5)
LENGTHS = np.array([T, 170], np.int32)
REAL = (np.arange(T) < LENGTHS[:, None])[:, None, None]
SEGMENTS = np.sort(rng.integers(0, 4, (B, T)), axis=1).astype(np.int32)
SLOPES = draw(N)
SOME = draw(B, 1, T, T) > 0
CAUSAL = {"is_causal": True}
attend = dot_product_attention


def sloped(slopes):
    return lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (q_idx - kv_idx) * 0.01 + 0.1 * b


def in_blocks(q, k, v):
    mask = create_block_mask(mask_mods.prefix_lm(130), None, None, T, T)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


# name: (function of query, key, value and others that have a gradient, the others)
CALLS = {
    "everything": (attend, ()),
    "causal, sinks, soft-cap": (
        lambda q, k, v, s: attend(q, k, v, sinks=s, softcap=2.0, **CAUSAL),
        (draw(N),),
    ),
    "window behind": (lambda q, k, v: attend(q, k, v, local_window_size=(90, 0)), ()),
    "window": (lambda q, k, v: attend(q, k, v, local_window_size=40), ()),
    "padding": (lambda q, k, v: attend(q, k, v, None, REAL, **CAUSAL), ()),
    "documents": (lambda q, k, v: attend(q, k, v, segment_ids=SEGMENTS, **CAUSAL), ()),
    "lengths": (
        lambda q, k, v: attend(q, k, v, query_seq_lengths=LENGTHS, key_value_seq_lengths=LENGTHS),
        (),
    ),
    "bias": (attend, (draw(1, N, T, T),)),
    "mask and bias of keys": (
        lambda q, k, v, b: attend(q, k, v, b, SOME),
        (draw(B, 1, 1, T),),
    ),
    "mod": (lambda q, k, v, s: attend(q, k, v, score_mod=sloped(s), **CAUSAL), (SLOPES,)),
    "dropout": (
        lambda q, k, v: attend(q, k, v, dropout_rate=0.3, dropout_key=jax.random.key(0), **CAUSAL),
        (),
    ),
    "block mask": (in_blocks, ()),
    "cross": (lambda q, k, v: attend(q, k[:, :100], v[:, :100]), ()),
    "log-sum-exp": (
        lambda q, k, v: jnp.concatenate(
            [x.reshape(B, T, -1) for x in attend(q, k, v, return_residual=True, **CAUSAL)], -1
        ),
        (),
    ),
}
MESHES = {"context=4": 4, "data=2,context=2,tensor=2": 8}


def program(f):
    def run(*operands):
        output, pull = jax.vjp(f, *operands)
        return output, pull(jnp.cos(jnp.arange(output.size, dtype=output.dtype)).reshape(output.shape))

    return jax.jit(run, compiler_options=quick_options())


def bytes_of(devices: int) -> int:
    """Temporary memory of a device for a gradient, with 512 tokens on each."""
    tokens = 512 * devices

    def loss(q, k, v):
        return attend(q, k, v, is_causal=True).sum()

    mesh = make_mesh(f"context={devices}", jax.devices()[:devices])
    lies = jax.sharding.NamedSharding(mesh, jax.P(None, "context"))
    x = jax.ShapeDtypeStruct((1, tokens, 1, 8), np.float32, sharding=lies)
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def refusal() -> str:
    """What is said where a ring cannot do what is asked."""
    with jax.set_mesh(make_mesh("context=4", jax.devices()[:4])):
        try:
            attend(*map(jnp.asarray, (QUERY, KEY, VALUE)), return_weights=True)
        except ValueError as error:
            return str(error)
    return ""


def main() -> None:
    print(json.dumps(["refusal", refusal()]))
    print(json.dumps(["bytes", *map(bytes_of, (4, 8))]))
    asked = sys.argv[1:] or CALLS
    for name in asked:
        f, more = CALLS[name]
        operands = [jnp.asarray(x) for x in (QUERY, KEY, VALUE, *more)]
        want = program(f)(*operands)
        for axes, devices in MESHES.items():
            if devices == 8 and name not in ("mask and bias of keys", "dropout", "mod", "bias"):
                continue
            with jax.set_mesh(make_mesh(axes, jax.devices()[:devices])):
                compiled = program(lambda *x, f=f: f(*x)).lower(*operands).compile()
                got = compiled(*operands)
            errors = [
                float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(1, np.abs(np.asarray(b)).max()))
                for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            ]
            moves = dict(collections.Counter(MOVES.findall(compiled.as_text())))
            print(json.dumps([name, axes, errors, moves]), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
