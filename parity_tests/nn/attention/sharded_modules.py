"""Runs attention modules on 8 simulated devices, and prints as JSON how far each is from itself on one device.

Arguments: names of `MODULES`; none are all. For each: which activations the program moves, and the error of its
output and gradients, on meshes of Auto and of Explicit axes, and within `jax.shard_map`.
"""

import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jax_attn import nn
from jax_attn.nn.positions import AlibiPositions, RotaryPositions, ShawPositions
from jax_attn.training import make_mesh, place_batch
from jax_attn.training.shardings import parameter_shardings

BATCH, TOKENS, WIDTH, HEADS = 8, 12, 32, 4
MODULES = {
    "gated delta rule": lambda o: nn.GatedDeltaNet(WIDTH, HEADS, chunk_size=5, **o),
    "grouped gated delta rule": lambda o: nn.GatedDeltaNet(WIDTH, HEADS, 2, chunk_size=5, **o),
    "linear": lambda o: nn.LinearAttention(WIDTH, HEADS, is_causal=True, chunk_size=5, **o),
    "performer": lambda o: nn.PerformerAttention(WIDTH, HEADS, is_causal=True, **o),
    "Nyström": lambda o: nn.NystromAttention(WIDTH, HEADS, 4, 3, **o),
    "latent": lambda o: nn.LatentAttention(
        WIDTH, HEADS, 12, 8, 4, q_lora_rank=8, is_causal=True, positions=RotaryPositions(4), **o
    ),
    "differential": lambda o: nn.DifferentialAttention(WIDTH, HEADS, is_causal=True, **o),
    "talking heads": lambda o: nn.MultiHeadAttention(WIDTH, HEADS, talking_heads=True, **o),
    "relative": lambda o: nn.RelativeAttention(WIDTH, HEADS, is_causal=True, **o),
    "Linformer": lambda o: nn.LinformerAttention(WIDTH, HEADS, 16, 5, **o),
    "pooling": lambda o: nn.AttentionPooling(WIDTH, HEADS, **o),
    "grouped heads": lambda o: nn.MultiHeadAttention(
        WIDTH, 8, 4, qk_norm="rms", gate="element", sinks="learned", positions=RotaryPositions(4), **o
    ),
    "ALiBi": lambda o: nn.MultiHeadAttention(
        WIDTH, HEADS, is_causal=True, positions=AlibiPositions(HEADS), **o
    ),
    "Shaw": lambda o: nn.MultiHeadAttention(WIDTH, HEADS, positions=ShawPositions(8, 3, **o), **o),
    "disentangled": lambda o: nn.DisentangledAttention(WIDTH, HEADS, 8, **o),
}
REFUSED = "Shaw", "disentangled"
"""On explicit axes: what they add to a score is indexed by batch entry."""
MOVED = re.compile(r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)(?:-start)?\(")


def built(name):
    module = MODULES[name]({"rngs": nnx.Rngs(0), "param_dtype": jnp.float64})
    module.eval()
    return module


def loss_of(name, graph):
    """`(parameters, the rest, x, mask, cotangent)` to loss and output."""

    def loss(params, rest, x, mask, cotangent):
        module = nnx.merge(graph, params, rest)
        table = [jnp.sin(jnp.arange(16.0 * WIDTH)).reshape(16, WIDTH)] * (name == "disentangled")
        output = module(x, *table, mask=mask)
        return jnp.sum(output * cotangent[:, : output.shape[1]]), output

    return loss


def error(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / max(1, np.abs(b).max())) for a, b in pairs)


def found(name):
    graph, params, rest = nnx.split(built(name), nnx.Param, ...)
    rng = np.random.default_rng(0)
    x, cotangent = (rng.standard_normal((BATCH, TOKENS, WIDTH)) for _ in range(2))
    mask = np.ones((BATCH, TOKENS), bool)
    mask[0, -3:] = mask[1, :2] = False
    run = jax.value_and_grad(loss_of(name, graph), argnums=(0, 2), has_aux=True)
    given = x, mask, cotangent
    want = jax.jit(run)(params, rest, *given)
    results = {}
    for kind in (AxisType.Auto, AxisType.Explicit):
        if kind is AxisType.Explicit and name in REFUSED:
            continue
        mesh = make_mesh("data=2,tensor=4", axis_type=kind)
        module = built(name)
        with jax.set_mesh(mesh):
            state = jax.tree.map(jax.device_put, nnx.state(module), parameter_shardings(module, mesh))
            _, *parts = nnx.split(nnx.merge(nnx.graphdef(module), state), nnx.Param, ...)
            placed = (*parts, *(place_batch(array, mesh) for array in given))
            compiled = jax.jit(run).lower(*placed).compile()
            got = compiled(*placed)
        shapes = [tuple(map(int, shape.split(","))) for shape in MOVED.findall(compiled.as_text())]
        activations = [shape for shape in shapes if max(shape[1:-1], default=0) >= TOKENS]  # no kernels
        results[kind.name] = {"error": error(got, want), "moved": activations}

    def losses(params, x, mask, cotangent):
        return loss_of(name, graph)(params, rest, x, mask, cotangent)[0][None]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), *(P("data"),) * 3), "out_specs": P("data")}
    mapped = jax.shard_map(losses, mesh=mesh, **specs)
    got = jax.jit(jax.grad(lambda *args: mapped(*args).sum(), argnums=(0, 1)))(params, *given)
    results["shard_map"] = {"error": error(got, want[1])}
    return results


if __name__ == "__main__":
    with jax.enable_x64(True):
        print(json.dumps({name: found(name) for name in sys.argv[1:] or MODULES}))
