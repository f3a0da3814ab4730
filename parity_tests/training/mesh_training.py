"""Trains a tiny decoder and a tiny encoder on meshes of 8 simulated devices, and prints as JSON what the steps do.

Arguments: which meshes; none are all.
"""

import json
import math
import os
import re
import sys

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType

from jax_attn.models import CausalLM, TaskModel, TextDecoder, TextEncoder
from jax_attn.nn import (
    ClassificationHead,
    DecoderLayer,
    Embeddings,
    Encoder,
    GatedFeedForward,
    MultiHeadAttention,
    Pooler,
    RMSNorm,
    RotaryPositions,
    Stack,
    TiedHead,
)
from jax_attn.parity.runners.quick import quick_options
from jax_attn.training import create_sharded, make_mesh, place_batch, shardings_like

MESHES = {
    "one": ("", 1),
    "data": ("data=8", 8),
    "fsdp": ("fsdp=8", 8),
    "fsdp and tensor": ("fsdp=2,tensor=4", 8),
    "context": ("context=4", 4),
}
STEPS = 3
BATCH, TOKENS, WIDTH, HEADS, HIDDEN, VOCAB = 56, 44, 16, 4, 48, 40
OF_ACTIVATIONS = 7, 11  # of which only the numbers of texts and of tokens are multiples
GATHERS = re.compile(r"= (.*?) (all-gather|all-to-all)(?:-start)?\(")
COLLECTIVES = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def decoder() -> nnx.Module:
    """A language model whose head is its table, with positions that turn heads, two of which share their keys."""
    rngs = nnx.Rngs(0)
    embeddings = Embeddings(VOCAB, WIDTH, None, 0, dropout=0.1, positions=None, norm=None, rngs=rngs)

    def layer() -> DecoderLayer:
        positions = RotaryPositions(WIDTH // HEADS)
        options = {"dropout": 0.1, "is_causal": True, "positions": positions, "rngs": rngs}
        attention = MultiHeadAttention(WIDTH, HEADS, 2, **options)
        fed = GatedFeedForward(WIDTH, HIDDEN, "silu", dropout=0.1, rngs=rngs)
        parts = {"attention": attention, "feed_forward": fed, "norm": "rms", "norm_placement": "pre"}
        return DecoderLayer(WIDTH, dropout=0.1, **parts, rngs=rngs)

    layers = Stack([layer(), layer()], RMSNorm(WIDTH, rngs=rngs), scan=True)
    return CausalLM(TextDecoder(embeddings, layers), TiedHead(VOCAB, rngs=rngs))


def encoder() -> nnx.Module:
    """A classifier of texts with padding."""
    rngs = nnx.Rngs(0)
    embeddings = Embeddings(VOCAB, WIDTH, 48, dropout=0.1, rngs=rngs)
    layers = Encoder(2, WIDTH, HEADS, HIDDEN, dropout=0.1, attention_dropout=0.1, scan=True, rngs=rngs)
    text = TextEncoder(embeddings, layers, Pooler(WIDTH, rngs=rngs))
    return TaskModel(text, ClassificationHead(WIDTH, 5, pooling=None, rngs=rngs), reads="text")


def batches(name: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, VOCAB, (BATCH, TOKENS + 1), np.int32) for _ in range(STEPS)]
    if name == "decoder":
        return [{"ids": x[:, :-1], "labels": x[:, 1:]} for x in ids]
    lengths = rng.integers(2, TOKENS + 1, (BATCH, 1))
    real = np.arange(TOKENS) < lengths
    return [{"ids": x[:, :-1] * real, "mask": real, "labels": x[:, -1] % 5} for x in ids]


def loss_of(model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
    logits = model(batch["ids"], batch.get("mask"))
    # Nothing is indexed along the vocabulary: explicit axes would want to be told where the result lies.
    labels = jax.nn.one_hot(batch["labels"], logits.shape[-1])
    return -(labels * jax.nn.log_softmax(logits)).sum(-1).mean()


def train(name: str, axes: str, devices: int, kind: AxisType = AxisType.Auto) -> dict:
    build = {"decoder": decoder, "encoder": encoder}[name]
    mesh = make_mesh(axes, jax.devices()[:devices], kind)
    optimizer = optax.adamw(1e-2)
    with jax.set_mesh(mesh):
        model = create_sharded(build, mesh)
        graphdef, weights, rest = nnx.split(model, nnx.Param, ...)
        like = shardings_like(jax.eval_shape(optimizer.init, weights), model, mesh)
        state = weights, rest, jax.jit(optimizer.init, out_shardings=like)(weights)

        def step(state, batch):
            weights, rest, moments = state

            def loss(weights):
                model = nnx.merge(graphdef, weights, rest, copy=True)
                return loss_of(model, batch), nnx.state(model, nnx.Not(nnx.Param))

            (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
            updates, moments = optimizer.update(gradients, moments, weights)
            return (optax.apply_updates(weights, updates), rest, moments), value

        kept = jax.tree.map(lambda x: x.sharding, state)
        whole = sum(x.size for x in jax.tree.leaves(weights))
        share = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(weights)) / whole
        given = [place_batch(batch, mesh) for batch in batches(name)]
        jitted = jax.jit(step, out_shardings=(kept, None), compiler_options=quick_options())
        compiled = jitted.lower(state, given[0]).compile()
        losses = []
        for batch in given:
            state, loss = compiled(state, batch)
            losses.append(float(loss))
    text = compiled.as_text()
    if "--hlo" in sys.argv:
        print(text)
    found = [(shape, kind) for shape, kind in GATHERS.findall(text)]
    sizes = [
        [int(n) for n in re.findall(r"\d+", shape.split("{")[0].partition("[")[2])] for shape, _ in found
    ]
    moved = [
        x
        for x, own in zip(found, sizes, strict=True)
        if any(n % factor == 0 for n in own for factor in OF_ACTIVATIONS)
    ]
    counts = {}
    for collective in COLLECTIVES.findall(text):
        counts[collective] = counts.get(collective, 0) + 1
    return {"losses": losses, "gathered activations": moved, "collectives": counts, "share": share}


if __name__ == "__main__":
    asked = [arg for arg in sys.argv[1:] if not arg.startswith("--")] or list(MESHES)
    names = (
        ["decoder"]
        if "--decoder" in sys.argv
        else ["encoder"]
        if "--encoder" in sys.argv
        else ["decoder", "encoder"]
    )
    kind = AxisType.Explicit if "--explicit" in sys.argv else AxisType.Auto
    for name in names:
        for mesh in asked:
            print(json.dumps([name, mesh, train(name, *MESHES[mesh], kind)]), flush=True)
