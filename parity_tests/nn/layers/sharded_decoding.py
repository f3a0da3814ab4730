"""Decodes on 2 simulated devices, which share out heads and their cache, and prints what it does as JSON."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_attn.nn import Decoder
from jax_attn.parity.runners.quick import quick_options
from parity_tests.nn.layers.sharded_training import COLLECTIVES, spec_of  # which asks for the devices

BATCH, LENGTH, WIDTH, HEADS = 3, 4, 16, 4


def step_of(graphdef):
    def step(state, cache, x):
        return nnx.merge(graphdef, state)(x, cache=cache)

    return jax.jit(step, compiler_options=quick_options())


def of_heads(leaf):
    """`(layers, B, L, heads, width)` by heads; what has no heads is on every device."""
    return P(None, None, None, "x") if leaf.ndim == 5 else P()


def main():
    model = Decoder(2, WIDTH, HEADS, 24, "gelu", "pre", True, context_dim=WIDTH, scan=True, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    rng = np.random.default_rng(0)
    x, context = (rng.standard_normal((BATCH, size, WIDTH)).astype(np.float32) for size in (LENGTH, 7))
    cache = model.init_cache(BATCH, LENGTH, jnp.asarray(context))
    want, _ = step_of(graphdef)(state, cache, x)

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))

    def put(path, leaf):
        spec = spec_of(path, "tensor")
        stacked = "layers" in jax.tree_util.keystr(path)  # its first axis counts layers
        return jax.device_put(leaf, NamedSharding(mesh, P(None, *spec) if stacked and spec else spec))

    with jax.set_mesh(mesh):
        state = jax.tree_util.tree_map_with_path(put, state)
        cache = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, of_heads(leaf))), cache)
        step = step_of(graphdef)
        step = step.lower(state, cache, x[:, :1]).compile()
        outputs = []
        for token in range(LENGTH):
            output, cache = step(state, cache, x[:, token : token + 1])
            outputs.append(output)
    text = step.as_text()
    kept = [leaf.sharding.shard_shape(leaf.shape)[3] for leaf in jax.tree.leaves(cache) if leaf.ndim == 5]
    print(
        json.dumps(
            {
                "error": float(np.abs(np.concatenate(outputs, 1) - want).max()),
                "heads": kept,
                "collectives": {
                    name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in COLLECTIVES
                },
            }
        )
    )


if __name__ == "__main__":
    main()
