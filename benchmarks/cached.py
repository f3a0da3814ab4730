"""One more token through a whole attention with its cache, early and late in it, beside its torch twin's.

Torch's cache is as long as what is in it, so its step takes longer late than early. Ours has room for all: a text
alone takes the same time at every token, and several beside each other are read as far as they are filled.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import torch_side
from benchmarks.cases import Shape
from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from jax_attn.models.part import Part
from jax_attn.nn.attention.cache import KVCache
from jax_attn.weights.state_dict import load_state_dict

NAMES = ("Flax, jitted", "torch, eager")
SHAPES = (Shape(1, 1024, 12, 64), Shape(8, 1024, 12, 64))
PLACES = (16, 512, 1000)
GROUPS = 3  # query heads to a key/value head, where they divide


def bench_cached(
    shapes: Sequence[Shape] = SHAPES, *, places: Sequence[int] = PLACES, rounds: int = 7
) -> Iterator[Comparison]:
    """Time the step of a rotary grouped-query attention, in float32.

    Args:
        shapes: batch, tokens that the cache has room for, heads and the width of a head.
        places: how many tokens are in the cache.
        rounds: how often each contender is timed.
    """
    for shape in shapes:
        for place in places:
            facts = {"in_cache": place, "room": shape.tokens}
            yield contest(f"token {place} of {shape}", _contenders(shape, place), rounds=rounds, facts=facts)


def _contenders(shape: Shape, place: int) -> dict[str, Contender]:
    width = shape.heads * shape.head_dim
    attention = Part(
        "nn.attention.multi_head:MultiHeadAttention",
        embed_dim=width,
        num_heads=shape.heads,
        num_kv_heads=shape.heads // GROUPS if shape.heads % GROUPS == 0 else shape.heads,
        bias=False,
        is_causal=True,
        positions=Part("nn.positions.rotary:RotaryPositions", head_dim=shape.head_dim),
    )
    theirs = attention.build("torch_ref").eval().to(torch_side.device())
    ours = load_state_dict(attention.build("jax_attn", rngs=nnx.Rngs(0)), theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((shape.batch, place + 1, width), np.float32)
    return dict(zip(NAMES, (_flax_step(ours, x, shape.tokens), _torch_step(theirs, x)), strict=True))


def _flax_step(module: nnx.Module, x: np.ndarray, room: int) -> Contender:
    graphdef, state = nnx.split(module)

    def step(state: Any, held: Any, length: jax.Array, token: jax.Array) -> Any:
        output, cache = nnx.merge(graphdef, state)(token, cache=KVCache(*held, length))
        return output, (cache.key, cache.value), cache.length

    compiled = jax.jit(step, donate_argnums=1)  # the cache is written where it lies
    attention: Any = module
    empty = attention.init_cache(x.shape[0], room)
    _, full, length = jax.jit(step)(state, (empty.key, empty.value), empty.length, jnp.asarray(x[:, :-1]))
    held, token = [full], jnp.asarray(x[:, -1:])

    def run() -> jax.Array:
        output, written, _ = compiled(
            state, held.pop(), length, token
        )  # the length, as if nothing was written
        held.append(written)
        return output.block_until_ready()

    return Contender(run, lambda output: [np.asarray(output)])


def _torch_step(module: Any, x: np.ndarray) -> Contender:
    import torch

    given = torch_side.as_torch(x, "float32")
    with torch.inference_mode():
        _, full = module(given[:, :-1], cache=module.init_cache(x.shape[0]))

    def run() -> Any:
        with torch.inference_mode():
            output, _ = module(given[:, -1:], cache=full)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return output

    return Contender(run, lambda output: [output.cpu().numpy()])
