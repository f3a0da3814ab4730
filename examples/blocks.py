"""Three blocks of known models, each built from the parts of `jax_attn.nn` in a few lines.

    python examples/blocks.py

- Llama's: RMS norms, rotary positions, grouped queries, SwiGLU. 32 of them and a norm are the body of Llama 3 8B.
- DeBERTa's: content and position compared both ways, with a table of relative positions that all layers share.
- The decoder block of 2017: masked self-attention, attention to the encoder's output, feed-forward, post-norm.

`parity_tests/examples/test_blocks.py` holds them to those of transformers and torch: outputs and all gradients, in
float64.

Expected: the shapes of the three outputs; then a stack of Llama blocks writes five tokens' vectors one by one, from
its cache, and they are those that it computes at once. It takes about 10 s on a CPU.
"""

import sys

import jax
import jax.numpy as jnp
from flax import nnx

from jax_attn.nn import (
    DecoderLayer,
    DisentangledAttention,
    EncoderLayer,
    FeedForward,
    GatedFeedForward,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    Stack,
)


def llama_block(width: int, heads: int, kv_heads: int, hidden: int, *, rngs: nnx.Rngs) -> DecoderLayer:
    """Call it as `block(x)`, or with a cache: `x, cache = block(x, cache=cache)`."""
    attention = MultiHeadAttention(
        width,
        heads,
        kv_heads,
        bias=False,
        is_causal=True,
        positions=RotaryPositions(width // heads, base=500_000.0),
        rngs=rngs,
    )
    return DecoderLayer(
        width,
        attention=attention,
        feed_forward=GatedFeedForward(width, hidden, "silu", rngs=rngs),
        norm="rms",
        norm_placement="pre",
        eps=1e-5,
        rngs=rngs,
    )


def deberta_block(width: int, heads: int, hidden: int, buckets: int = 256, *, rngs: nnx.Rngs) -> EncoderLayer:
    """Call it as `block(x, mask, relative=table)`, with a table `(2 * buckets, width)`."""
    attention = DisentangledAttention(
        width,
        heads,
        max_relative_positions=2 * buckets,
        position_buckets=buckets,
        share_att_key=True,
        dropout=0.1,
        position_dropout=0.1,
        rngs=rngs,
    )
    feed_forward = FeedForward(width, hidden, "gelu", dropout=0.1, rngs=rngs)
    return EncoderLayer(
        width, attention=attention, feed_forward=feed_forward, dropout=0.1, eps=1e-7, rngs=rngs
    )


def decoder_block(width: int = 512, heads: int = 8, hidden: int = 2048, *, rngs: nnx.Rngs) -> DecoderLayer:
    """Call it as `block(x, context, mask, context_mask)`, or with a cache, which holds the context."""
    return DecoderLayer(
        width,
        heads,
        hidden,
        activation="relu",
        norm_placement="post",
        dropout=0.1,
        context_dim=width,
        rngs=rngs,
    )


def main() -> int:
    """Run each; 0 if decoding token by token gives what is computed at once."""
    rngs = nnx.Rngs(0)
    x, context = (jax.random.normal(jax.random.key(0), (2, tokens, 64)) for tokens in (5, 7))
    table = jax.random.normal(jax.random.key(1), (2 * 16, 64))
    deberta, decoder = deberta_block(64, 4, 256, 16, rngs=rngs), decoder_block(64, 4, 256, rngs=rngs)
    print("DeBERTa:", nnx.jit(lambda block: block(x, relative=table))(deberta).shape)
    print("2017 decoder:", nnx.jit(lambda block: block(x, context))(decoder).shape)

    blocks = [llama_block(64, 4, 2, 160, rngs=rngs) for _ in range(3)]
    llama = Stack(blocks, RMSNorm(64, rngs=rngs), scan=True)
    at_once = nnx.jit(lambda llama: llama(x))(llama)
    print("Llama:", at_once.shape)

    @jax.jit
    def write(cache, tokens):
        def step(cache, token):
            output, cache = llama(token[:, None], cache=cache)
            return cache, output[:, 0]

        return jax.lax.scan(step, cache, tokens.swapaxes(0, 1))

    _, one_by_one = write(llama.init_cache(2, 5), x)
    apart = float(jnp.abs(one_by_one.swapaxes(0, 1) - at_once).max())
    print(f"token by token: {apart:.1e} away from all at once")
    return 0 if apart < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
