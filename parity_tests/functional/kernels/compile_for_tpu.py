"""Compile attention for the TPUs of a topology, none of which is here; prints what came of it as JSON.

Needs TPU_LIBRARY_PATH to name libtpu.so and TPU_SKIP_MDS_QUERY=1.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_attn import dot_product_attention, flex_attention
from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.block_mask import and_masks, create_block_mask
from jax_attn.functional.kernels import tpu
from jax_attn.functional.kernels.visits import MaskTerms

CHIPS = 4
MOVES = re.compile(r" (all-gather|all-to-all|collective-permute)(?:-start)?\(")


def compile_all_tables(mesh):
    """Tables of heads, distances, vectors and pairs in the mod, of ids and of blocks in the mask."""
    batch, queries, keys, heads = 2, 200, 333, 4
    documents = mask_mods.document(jnp.zeros((batch, queries), int), jnp.zeros((batch, keys), int))
    bigbird = mask_mods.bigbird(jax.random.key(0), keys, 64)
    block_mask = create_block_mask(and_masks(documents, bigbird), batch, None, queries, keys)
    shapes = {"alibi": (heads,), "t5_bias": (32, heads), "shaw": (11, 64), "learned_bias": (queries, keys)}

    def loss(q, k, v, learned):
        mods = [
            score_mods.shaw(q, learned["shaw"]),
            *(getattr(score_mods, name)(learned[name]) for name in ("alibi", "t5_bias", "learned_bias")),
        ]

        def score_mod(score, *place):
            for mod in mods:
                score = mod(score, *place)
            return score

        result = tpu.tpu_attention(q, k, v, score_mod, block_mask)
        return result.output.astype(jnp.float32).sum() + result.lse.sum()

    whole = NamedSharding(mesh, PartitionSpec())
    operands = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole)
        for shape in [(batch, queries, heads, 64), (batch, keys, 2, 64), (batch, keys, 2, 40)]
    ]
    learned = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole) for name, shape in shapes.items()
    }

    def gradients(*arguments):
        return jax.shard_map(
            jax.grad(loss, argnums=range(4)),
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        )(*arguments)

    with jax.set_mesh(mesh):
        jax.jit(gradients).lower(*operands, learned).compile()


def forward_and_backward(mesh, attend, spec, tokens):
    """Temporaries on one chip, in units of its queries, for 4 x tokens x 12 x 128 in bfloat16."""

    def run(q, k, v, d_output):
        sharded = jax.shard_map(attend, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
        return jax.vjp(sharded, q, k, v)[1](d_output)

    sharding = NamedSharding(mesh, spec)
    x = jax.ShapeDtypeStruct((4, tokens, 12, 128), jnp.bfloat16, sharding=sharding)
    with jax.set_mesh(mesh):
        compiled = jax.jit(run, out_shardings=sharding).lower(x, x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (x.size * x.dtype.itemsize / CHIPS)


def fused(tokens):
    """Causal attention by the kernels; the block mask is made here, where its arrays are known."""
    block_mask = create_block_mask(mask_mods.causal, None, None, tokens, tokens, BLOCK_SIZE=512)
    return lambda *operands: tpu.tpu_attention(*operands, None, block_mask).output


def causal_by_splash(*operands):
    return tpu.tpu_attention(*operands, None, MaskTerms(is_causal=True), residuals=False).output


def compile_defaults(mesh, spec):
    """The public functions with no implementation named, forward and gradients: how many kernels, and moves."""
    block_mask = create_block_mask(mask_mods.causal, None, None, 2048, 2048)
    calls = {
        "dot_product_attention": lambda q, k, v: dot_product_attention(q, k, v, is_causal=True),
        "flex_attention": lambda q, k, v: flex_attention(q, k, v, None, block_mask),
    }
    found = {}
    for name, attend in calls.items():
        for width in (64, 128):

            def both(q, k, v, attend=attend):
                output, pull_back = jax.vjp(attend, q, k, v)
                return output, pull_back(output)

            sharding = NamedSharding(mesh, spec)
            x = jax.ShapeDtypeStruct((4, 2048, 4, width), jnp.bfloat16, sharding=sharding)
            with jax.set_mesh(mesh):
                text = jax.jit(both).lower(x, x, x).compile().as_text()
            found[f"{name} {width}"] = [text.count("tpu_custom_call"), len(MOVES.findall(text))]
    return found


def main(topology, *measures):
    """Compiles all sorts, and takes measures such as `fused:8192`: which attention, how many tokens."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = Mesh(np.array(devices)[:CHIPS], ("x",))
    over_heads = PartitionSpec(None, None, "x")
    compile_all_tables(mesh)
    forward_and_backward(mesh, causal_by_splash, over_heads, 1024)
    defaults = {
        "one chip": compile_defaults(Mesh(mesh.devices[:1], ("x",)), PartitionSpec()),
        "over the batch": compile_defaults(mesh, PartitionSpec("x")),
    }
    temporaries = {}
    for measure in measures:
        name, tokens = measure.split(":")
        attend = fused(int(tokens)) if name == "fused" else jax.nn.dot_product_attention
        temporaries[measure] = forward_and_backward(mesh, attend, over_heads, int(tokens))
    print(json.dumps({"compiled": ["tables", "splash"], "temporaries": temporaries, "defaults": defaults}))


if __name__ == "__main__":
    main(*sys.argv[1:])
