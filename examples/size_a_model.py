"""Does a model fit? A decoder of 1.3 billion parameters, on TPUs that are not here.

    jax-attn compile examples/size_a_model.py --topology v5e:16x16 --mesh fsdp=256
    jax-attn compile examples/size_a_model.py --topology v5p:4x4x4 --mesh fsdp=32,tensor=2 --batch 256
    jax-attn compile examples/size_a_model.py:long_context --topology v5p:4x4x4 --mesh fsdp=4,context=16
    jax-attn compile examples/size_a_model.py:plain --topology v5e:4x4 --search

No array is made: the model is traced, and the TPU's own compiler says what each chip has to hold. `plain` is a
model of plain Flax modules, for which it works alike.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from jax_attn.weights import from_config

# Llama's architecture with 1.3 billion parameters, as its `config.json` would say it.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 5504,
}


def next_token_loss(model: Callable[..., Any], batch: dict[str, Any]) -> tuple[Any, int]:
    """The summed cross entropy, and of how many tokens."""
    logits = model(batch["ids"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return losses.sum(), losses.size


def token_batch(rows: int, tokens: int = 2048) -> dict[str, Any]:
    """What a step reads."""
    return {name: jnp.zeros((rows, tokens), jnp.int32) for name in ("ids", "labels")}


def step(dtype: str = "bfloat16", remat: bool = True) -> dict[str, Any]:
    """What `jax-attn compile` asks for."""
    return {
        # Its layers are stacked by `scan`: it compiles as quickly as one layer.
        "model": lambda: from_config(LLAMA, rngs=nnx.Rngs(0), dtype=dtype, scan=True, remat=remat),
        "optimizer": optax.adamw(3e-4),
        "inputs": token_batch,
        "loss": next_token_loss,
        "max_grad_norm": 1.0,
    }


def long_context(dtype: str = "bfloat16", remat: bool = True) -> dict[str, Any]:
    """The same on sequences of 131,072 tokens; on a mesh with `context` attention goes around in a ring."""
    return step(dtype, remat) | {"inputs": lambda rows: token_batch(rows, 2**17)}


class PlainBlock(nnx.Module):
    """Attention and feed-forward of Flax's own modules."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """`(b, t, d)` to the same."""
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class PlainModel(nnx.Module):
    """A small language model."""

    def __init__(self, width: int = 512, heads: int = 8, layers: int = 2, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(LLAMA["vocab_size"], width, rngs=rngs)
        self.blocks = nnx.List([PlainBlock(width, heads, rngs=rngs) for _ in range(layers)])
        self.head = nnx.Linear(width, LLAMA["vocab_size"], use_bias=False, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        """`(b, t)` ids to logits `(b, t, v)`."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def plain() -> dict[str, Any]:
    """A model of which nothing is from here."""
    return {
        "model": lambda: PlainModel(rngs=nnx.Rngs(0)),
        "optimizer": optax.adam(1e-3),
        "inputs": lambda rows: token_batch(rows, 512),
        "loss": next_token_loss,
    }
