"""The Transformer of 2017: an encoder reads a text, and a decoder writes another."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer

from jax_attn.functional.checks import checked, require_positive
from jax_attn.models.token_mask import token_mask
from jax_attn.nn.attention.cache import next_positions
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.primitives import make_norm

TokenMask = Bool[Array, "..."] | Integer[Array, "..."] | None

TABLE_3: dict[str, dict[str, Any]] = {
    "base": {},
    "A, 1 head": {"num_heads": 1},
    "A, 4 heads": {"num_heads": 4},
    "A, 16 heads": {"num_heads": 16},
    "A, 32 heads": {"num_heads": 32},
    "B, keys of 16": {"head_dim": 16, "v_head_dim": 64},
    "B, keys of 32": {"head_dim": 32, "v_head_dim": 64},
    "C, 2 layers": {"num_layers": 2},
    "C, 4 layers": {"num_layers": 4},
    "C, 8 layers": {"num_layers": 8},
    "C, 256 wide": {"embed_dim": 256},
    "C, 1024 wide": {"embed_dim": 1024},
    "C, 1024 inside": {"hidden_dim": 1024},
    "C, 4096 inside": {"hidden_dim": 4096},
    "E, learned positions": {"positions": "learned"},
    "big": {"embed_dim": 1024, "num_heads": 16, "hidden_dim": 4096, "dropout": 0.3},
}
"""The rows of the paper's Table 3 that change the shape of the model, as arguments of `Transformer`."""


class TransformerCache(NamedTuple):
    """What the decoder keeps: a plain value.

    Attributes:
        layers: the cache of its layers, the keys and values of the context among them.
        length: `(b,)`, how many tokens of each text were seen, padding not among them.
        context_mask: `(b, s)`, which tokens of the context are no padding; None is all.
    """

    layers: Any
    length: Array
    context_mask: Array | None


class Transformer(nnx.Module):
    """`logits(decoder(target, encoder(source)))`; one table embeds source and target and scores the next token.

    Token vectors are multiplied by the root of their width, and positions are added. The presets are
    `Transformer(vocab_size, **TABLE_3["base"])`, `"big"` and the other rows of the paper's Table 3. The paper's
    numbers of parameters are those of a vocabulary of 41,000, and big's of 36,000, though it speaks of about 37,000
    (with which base has 63 million in place of 65).

    Tokens are counted without padding, wherever that stands, so a text gets what it would get alone. To write one::

        context = model.encode(source, source_mask)
        cache = model.init_cache(batch, length, context, source_mask)
        generate(model, jnp.full((batch, 1), start), cache=cache, max_new_tokens=length)

    Parameters: `embeddings.token` `(vocab_size, embed_dim)`, drawn from N(0, 1 / embed_dim), and with learned
    positions `embeddings.position`, one table for source and target; `encoder.layers.{i}.…` as in `EncoderLayer`;
    `decoder.layers.{i}.…` as in `DecoderLayer`; with `final_norm` `encoder.norm` and `decoder.norm`.

    Args:
        vocab_size: number of token ids, of source and target together.
        embed_dim: width of the model, `d_model`.
        num_heads: number of attention heads.
        hidden_dim: width inside the feed-forward layers, `d_ff`.
        num_layers: number of layers of the encoder, and of the decoder.
        head_dim: width of a head's query and key, `d_k`; None is `embed_dim / num_heads`.
        v_head_dim: width of its value, `d_v`; None is `head_dim`.
        dropout: after the embeddings and on what is added to the skip connections.
        attention_dropout: on the attention weights; the paper has none.
        positions: "sinusoidal" or "learned".
        max_positions: the most tokens it takes.
        activation: of the feed-forward layers, as in `FeedForward`.
        norm_placement: "post" as in the paper, or another that `DecoderLayer` has for layers with a context.
        final_norm: whether a norm follows each stack, as `torch.nn.Transformer` has it, and pre-norm wants.
        eps: epsilon of the norms.
        scan: whether the layers are stacked and run as one loop; see `Stack`.
        remat: whether the backward pass computes each layer again, to save memory.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is that of the parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: as in the parts; ids that are not `(b, t)` integers, or a mask that does not fit them.

    Source: Vaswani et al. (arXiv 1706.03762).
    """

    @checked
    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 512,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        num_layers: int = 6,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: str = "sinusoidal",
        max_positions: int = 1024,
        activation: str = "relu",
        norm_placement: str = "post",
        final_norm: bool = False,
        eps: float = 1e-5,
        *,
        scan: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_layers", num_layers)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}

        def attention(**options: Any) -> MultiHeadAttention:
            options |= {"head_dim": head_dim, "v_head_dim": v_head_dim, "dropout": attention_dropout}
            return MultiHeadAttention(embed_dim, num_heads, **options, **own)

        def stack(layers: list[Any]) -> Stack:
            last = make_norm("layer", embed_dim, eps, **own) if final_norm else None
            return Stack(layers, last, scan=scan, remat=remat)

        common: dict[str, Any] = {
            "embed_dim": embed_dim,
            "hidden_dim": hidden_dim,
            "activation": activation,
            "norm_placement": norm_placement,
            "dropout": dropout,
            "eps": eps,
        }
        self.embeddings = Embeddings(
            vocab_size,
            embed_dim,
            max_positions,
            num_segments=0,
            dropout=dropout,
            positions=positions,
            norm=None,
            scaled=True,
            **own,
        )
        table = self.embeddings.token.embedding
        table.set_value(table[...] * embed_dim**-0.5)
        self.encoder = stack(
            [EncoderLayer(**common, attention=attention(), **own) for _ in range(num_layers)]
        )
        self.decoder = stack(
            [
                DecoderLayer(
                    **common, attention=attention(is_causal=True), cross_attention=attention(), **own
                )
                for _ in range(num_layers)
            ]
        )
        self.head = TiedHead(vocab_size, **own)

    def __call__(
        self,
        source: Integer[Array, "*b s"],
        target: Integer[Array, "*b t"],
        source_mask: TokenMask = None,
        target_mask: TokenMask = None,
    ) -> Float[Array, "*b t v"]:
        """Read the source, and score what comes after each token of the target.

        Args:
            source: `(b, s)` or `(s,)` ids.
            target: `(b, t)` or `(t,)`, the start token and all but the last of what is to be written.
            source_mask: of the source's shape, True or 1 where a token stands and no padding; None is everywhere.
            target_mask: likewise.

        Returns:
            logits `(..., t, vocab_size)`.
        """
        context = self.encode(source, source_mask)
        return self.logits(self.decode(target, target_mask, context, source_mask))

    def encode(self, source: Integer[Array, "*b s"], source_mask: TokenMask = None) -> Float[Array, "*b s d"]:
        """Read the source: `(b, s)` ids to vectors `(b, s, embed_dim)`."""
        real, positions = _counted(source, source_mask)
        return self.encoder(self.embeddings(source, positions=positions), real)

    def decode(
        self,
        target: Integer[Array, "*b t"],
        target_mask: TokenMask = None,
        context: Float[Array, "*b s d"] | None = None,
        context_mask: TokenMask = None,
        *,
        cache: TransformerCache | None = None,
    ) -> Any:
        """The vectors `(b, t, embed_dim)` of which `logits` makes scores; with a cache, a tuple with the new cache.

        Args:
            target: `(b, t)` ids; with a cache, those that come next.
            target_mask: as in a call.
            context: what `encode` returned. Not given with a cache, which holds it.
            context_mask: the source's mask, likewise.
            cache: of `init_cache`.
        """
        if cache is None:
            real, positions = _counted(target, target_mask)
            seen = None if context_mask is None else context_mask != 0
            return self.decoder(self.embeddings(target, positions=positions), context, real, seen)
        real = None if target_mask is None else token_mask(target_mask, target.shape)
        positions = next_positions(cache.length, target.shape[1], real)
        x = self.embeddings(target, positions=positions)
        hidden, layers = self.decoder(x, context, real, cache.context_mask, cache=cache.layers)
        length = jnp.maximum(cache.length, positions.max(axis=1, initial=-1) + 1)
        return hidden, TransformerCache(layers, length.astype(cache.length.dtype), cache.context_mask)

    def logits(self, hidden: Float[Array, "*b t d"]) -> Float[Array, "*b t v"]:
        """The scores of the token after each of these."""
        return self.head(hidden, self.embeddings.token.embedding[...])

    @property
    def max_positions(self) -> int | None:
        """The most tokens it takes."""
        return self.embeddings.max_positions

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.head.vocab_size

    def init_cache(
        self,
        batch: int,
        length: int,
        context: Float[Array, "b s d"] | None = None,
        context_mask: TokenMask = None,
        dtype: DTypeLike | None = None,
    ) -> TransformerCache:
        """A cache for `length` tokens of `batch` texts, which holds the keys and values of the context.

        Raises:
            ValueError: there is no context, or its mask does not fit it.
        """
        real = None
        if context is not None and context_mask is not None:
            real = token_mask(context_mask, context.shape[:2])
        layers = self.decoder.init_cache(batch, length, context, dtype=dtype)
        return TransformerCache(layers, jnp.zeros(batch, jnp.int32), real)

    def reorder_cache(self, cache: TransformerCache, rows: Int[Array, "b"]) -> TransformerCache:
        """The cache of the texts `rows`, in that order: of the beams that go on."""
        mask = None if cache.context_mask is None else cache.context_mask[rows]
        return TransformerCache(self.decoder.reorder_cache(cache.layers, rows), cache.length[rows], mask)


def _counted(ids: Array, mask: TokenMask) -> tuple[Array | None, Array | None]:
    """Which tokens are no padding, and their positions, counted without it; None where there is none."""
    if mask is None:
        return None, None
    real = token_mask(mask, ids.shape)
    return real, jnp.where(real, jnp.cumsum(real, axis=-1) - 1, -1)
