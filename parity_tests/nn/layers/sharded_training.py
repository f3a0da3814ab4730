"""Compiles and runs train steps on 8 simulated devices, and prints what they do as JSON."""

import json
import os
import re
from functools import partial

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_attn.nn import Embedding, Encoder

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
BATCH, TOKENS, WIDTH, HEADS = 8, 256, 32, 8  # enough scores to be computed in blocks


def spec_of(path, way):
    """Data parallel: every device has all weights. Tensor parallel: heads and hidden units are dealt out."""
    name = jax.tree_util.keystr(path)
    if way == "data":
        return P()
    if any(part in name for part in ("q_proj", "k_proj", "v_proj", "up")):
        return P(None, "x") if "kernel" in name else P("x")
    if any(part in name for part in ("out_proj", "down")) and "kernel" in name:
        return P("x", None)
    return P()


def put(mesh, way, path, leaf):
    return jax.device_put(leaf, NamedSharding(mesh, spec_of(path, way)))


class Model(nnx.Module):
    """A table, and an encoder that reads its rows."""

    def __init__(self, rngs):
        self.token = Embedding(13, WIDTH, 0, rngs=rngs)
        self.encoder = Encoder(1, WIDTH, HEADS, 40, norm_placement="pre", final_norm=True, rngs=rngs)

    def __call__(self, ids):
        return self.encoder(self.token(ids))


def step_of(graphdef, optimizer):
    def step(weights, rest, moments, x):
        def loss_of(weights):
            return jnp.square(nnx.merge(graphdef, weights, rest)(x)).mean()

        loss, gradients = jax.value_and_grad(loss_of)(weights)
        updates, moments = optimizer.update(gradients, moments, weights)
        return optax.apply_updates(weights, updates), moments, loss

    return step


def main():
    model = Model(nnx.Rngs(0))
    model.eval()
    graphdef, weights, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9)
    x = np.random.default_rng(0).integers(0, 13, (BATCH, TOKENS), np.int32)
    step = jax.jit(step_of(graphdef, optimizer))
    want, _, want_loss = step(weights, rest, optimizer.init(weights), x)
    found = {}
    for axes in ("auto", "explicit"):
        kind = AxisType.Auto if axes == "auto" else AxisType.Explicit
        mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
        # On explicit axes a product over a sharded axis must be told how its result lies: data parallel alone.
        for way in ("data", "tensor") if axes == "auto" else ("data",):
            with jax.set_mesh(mesh):
                placed = jax.tree_util.tree_map_with_path(partial(put, mesh, way), weights)
                others = jax.device_put(rest, NamedSharding(mesh, P()))
                given = jax.device_put(x, NamedSharding(mesh, P("x") if way == "data" else P()))
                moments = optimizer.init(placed)
                step = jax.jit(step_of(graphdef, optimizer))
                compiled = step.lower(placed, others, moments, given).compile()
                got, _, loss = compiled(placed, others, moments, given)
            text = compiled.as_text()
            errors = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), got, want)
            found[f"{axes} {way}"] = {
                "collectives": {
                    name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in COLLECTIVES
                },
                "error": max([abs(float(loss) - float(want_loss)), *jax.tree.leaves(errors)]),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
