"""Small pairs of modules into which every known mutation can be injected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import text_cases, token_cases
from jax_attn.catalogue.fixtures import FIXTURES, PARTS
from jax_attn.catalogue.twin import Twin
from jax_attn.parity.cases import Case
from jax_attn.parity.mutations import MUTATIONS, Mutation, mutations_for

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


def on(fixture: str) -> tuple[str, ...]:
    """The mutations that a fixture is for."""
    return tuple(name for name, mutation in MUTATIONS.items() if fixture in mutation.on)


def of_fixture(fixture: str) -> Pair:
    made = FIXTURES[fixture]
    return Pair(made.flax, made.torch, made.cases, on(fixture))


OWN = "decoder layer", "decoder layer 5e5", "image layer", "other norms", "edges", "tied head", "losses"

PAIRS = {
    "layer": pair_of(
        "nn.layers.encoder_layer:EncoderLayer",
        layer_cases,
        but=(
            *(
                "heads-doubled",
                "empty-row-zero",
                "empty-row-gradient",
                "block-parallel",
                "eps-1e-5",
                "axes-swapped",
                "variance-one-pass",
                "skip-normed",
                "first-skip-normed",
                "pooler-tanh",
            ),
            *(
                name
                for name in on("decoder layer")
                if name.startswith(("heads-", "padding-", "causal-", "gate-", "norm-offset-"))
            ),
            *(name for name, mutation in MUTATIONS.items() if mutation.on and set(mutation.on) <= set(PARTS)),
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
        only=on("feed-forward-relu"),
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
                and mutation.name
                not in ("position-halves", "embedding-unscaled", "tie-lost", "cache-position")
            )
        ],
        vocab_size=7,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=5,
        max_position_embeddings=5,
        pad_token_id=None,
    ),
    "waves": pair_of(
        "nn.positions.sinusoidal:SinusoidalPositions",
        lambda: token_cases(WIDTH)[:1],
        only=("position-halves",),
        num_embeddings=5,
        embedding_dim=WIDTH,
    ),
    **{fixture: of_fixture(fixture) for fixture in (*OWN, *PARTS)},
}
