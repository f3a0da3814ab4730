"""Small pairs of modules into which every known mutation can be injected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.catalogue.power_pairs.decoder_pair import FlaxDecoderLayer, decoder_cases, torch_decoder_layer
from jax_attn.catalogue.power_pairs.edge_pair import FlaxEdges, edge_cases, torch_edges
from jax_attn.catalogue.power_pairs.image_pair import FlaxImageLayer, image_cases, torch_image_layer
from jax_attn.catalogue.power_pairs.loss_pair import FlaxLosses, loss_cases, torch_losses
from jax_attn.catalogue.power_pairs.norm_pair import FlaxNorms, norm_cases, torch_norms
from jax_attn.catalogue.power_pairs.tied_pair import FlaxTied, tied_cases, torch_tied
from jax_attn.catalogue.twin import Twin
from jax_attn.parity.cases import Case, text_cases, token_cases
from jax_attn.parity.mutations import MUTATIONS, Mutation, mutations_for
from jax_attn.parity.mutations.batch_norm import BATCH_NORM

WIDTH = 6


@dataclass(frozen=True)
class Pair:
    """Both modules, and calls on which each mutation shows: `only` these, or all that fit but those in `but`."""

    flax: Callable[[], Any]
    torch: Callable[[], Any]
    cases: Callable[[], list[Case]]
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()

    def mutations(self) -> list[Mutation]:
        if self.only:
            return [MUTATIONS[name] for name in self.only]
        return [
            mutation for mutation in mutations_for(self.flax(), self.torch()) if mutation.name not in self.but
        ]


def pair_of(
    where: str, cases: Callable[[], list[Case]], only: Any = (), but: Any = (), **arguments: Any
) -> Pair:
    twin = Twin("", where, "", "", arguments)

    def torch() -> Any:
        module = twin.torch()
        for number, parameter in enumerate(module.parameters()):
            draw = np.random.default_rng([5, number]).normal(size=parameter.shape)
            if parameter.ndim == 1:  # norms begin with ones and zeros, which hide much
                parameter.data += 0.2 * parameter.new_tensor(draw)
        return module

    return Pair(twin.flax, torch, cases, tuple(only), tuple(but))


def layer_cases() -> list[Case]:
    draw = np.random.default_rng(3).standard_normal
    rows = [True, False, True, True], [False] * 4, [True, True, False, True], [False, True, True, False]
    return [Case("small", (0.02 * draw((2, 4, WIDTH)),), {"mask": np.array([rows] * 2)})]


def far_cases() -> list[Case]:
    """Far from zero, a variance in one pass cancels."""
    return [Case("far", (1e3 + np.random.default_rng(3).standard_normal((2, 3, WIDTH)),))]


def ids() -> list[Case]:
    return text_cases(7, context=5)[-1:]


def large_cases() -> list[Case]:
    """Numbers at which an activation that is cut off is cut off."""
    return [Case("large", (50 * np.random.default_rng(3).standard_normal((2, 3, WIDTH)),))]


DECODER = (
    *("heads-shared", "padding-missing", "causal-missing", "padding-inverted", "padding-inverted-mean"),
    *("padding-inverted-itself", "padding-inverted-alone", "padding-inverted-alone-mean", "causal-inverted"),
    *("causal-inverted-mean", "rotary-layout", "rotary-sign", "rotary-missing", "rotary-missing-keys"),
    *("rotary-missing-queries", "rotary-base-500000", "gelu-for-silu"),
    *("tanh-gelu-for-silu", "gelu-sigmoid-for-silu", "relu-for-silu", "sigmoid-for-silu", "none-for-silu"),
    *("rotary-frequencies-reversed", "rotary-frequencies-mixed", "rotary-exponent", "heads-halved", "heads-doubled"),
    *("block-parallel", "gate-swapped", "norm-centred", "eps-outside", "eps-1e-5", "norm-placement"),
)

PAIRS = {
    "layer": pair_of(
        "nn.layers.encoder_layer:EncoderLayer",
        layer_cases,
        but=(
            *(
                "heads-doubled",
                "empty-row-zero",
                "block-parallel",
                "eps-1e-5",
                "axes-swapped",
                "variance-one-pass",
                "skip-normed",
                "first-skip-normed",
            ),
            *(name for name in DECODER if name.startswith(("heads-", "padding-", "causal-", "gate-"))),
        ),
        embed_dim=WIDTH,
        num_heads=3,
        hidden_dim=5,
        dropout=0.2,
        attention_dropout=0.3,
        eps=1e-5,
    ),
    "attention": pair_of(
        "from_scratch.sdpa:MultiHeadAttentionSDPA",
        lambda: token_cases(WIDTH)[:1],
        only=(
            "mask-one-more",
            "mask-inverted-itself",
            "mask-transposed",
            "mask-transposed-mean",
            "qkv-by-heads",
            "qkv-in-three",
            "axes-swapped",
            "scale-missing",
            "mask-missing",
            "swapped-qk",
        ),
        d_in=WIDTH,
        d_out=WIDTH,
        num_heads=2,
        context_length=5,
    ),
    "relu": pair_of(
        "nn.layers.feed_forward:FeedForward",
        large_cases,
        only=[mutation.name for mutation in MUTATIONS.values() if mutation.name.endswith("relu")],
        embed_dim=WIDTH,
        hidden_dim=5,
        activation="relu",
    ),
    "pre": pair_of(
        "nn.layers.encoder_layer:EncoderLayer",
        far_cases,
        only=("variance-one-pass", "norm-placement", "skip-normed", "first-skip-normed"),
        embed_dim=WIDTH,
        num_heads=2,
        hidden_dim=5,
        norm_placement="pre",
        eps=1e-5,
    ),
    "eps": pair_of(
        "nn.layers.encoder_layer:EncoderLayer",
        layer_cases,
        only=("eps-1e-5",),
        embed_dim=WIDTH,
        num_heads=2,
        hidden_dim=5,
    ),
    "bert": pair_of(
        "models.bert:Bert",
        ids,
        only=[
            mutation.name
            for mutation in MUTATIONS.values()
            if mutation.name == "pooler-tanh"
            or (
                mutation.family == "models"
                and mutation.name not in ("position-halves", "embedding-unscaled", "tie-lost")
            )
        ],
        vocab_size=7,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=5,
        max_position_embeddings=5,
    ),
    "waves": pair_of(
        "nn.positions.sinusoidal:SinusoidalPositions",
        lambda: token_cases(WIDTH)[:1],
        only=("position-halves",),
        num_embeddings=5,
        embedding_dim=WIDTH,
    ),
    "decoder": Pair(FlaxDecoderLayer, torch_decoder_layer, decoder_cases, only=DECODER),
    "another base": Pair(
        lambda: FlaxDecoderLayer(5e5), lambda: torch_decoder_layer(5e5), decoder_cases, ("rotary-base-10000",)
    ),
    "image": Pair(
        FlaxImageLayer,
        torch_image_layer,
        image_cases,
        only=(
            *("kernel-flipped", "padding-same", "leaky-slope", "relu-for-leaky", "eps-1e-5", "eps-outside"),
            *(mutation.name for mutation in BATCH_NORM),
        ),
    ),
    "norms": Pair(FlaxNorms, torch_norms, norm_cases, but=("axes-swapped", "variance-one-pass")),
    "edges": Pair(FlaxEdges, torch_edges, edge_cases, only=("clamp-gradient", "norm-gradient")),
    "tied": Pair(FlaxTied, torch_tied, tied_cases, only=("embedding-unscaled", "tie-lost", "empty-row-zero")),
    "losses": Pair(FlaxLosses, torch_losses, loss_cases, but=("axes-swapped",)),
}
