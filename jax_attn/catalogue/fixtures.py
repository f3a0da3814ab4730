"""Fixtures: pairs of modules into which `jax-attn verify --power` injects the mutations that name them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.cases import EXACT
from jax_attn.catalogue.power_pairs.cached_pair import FlaxCached, cached_cases, torch_cached
from jax_attn.catalogue.power_pairs.decoder_pair import FlaxDecoderLayer, decoder_cases, torch_decoder_layer
from jax_attn.catalogue.power_pairs.edge_pair import FlaxEdges, edge_cases, torch_edges
from jax_attn.catalogue.power_pairs.image_pair import FlaxImageLayer, image_cases, torch_image_layer
from jax_attn.catalogue.power_pairs.loss_pair import FlaxLosses, loss_cases, torch_losses
from jax_attn.catalogue.power_pairs.norm_pair import FlaxNorms, norm_cases, torch_norms
from jax_attn.catalogue.power_pairs.tied_pair import FlaxTied, tied_cases, torch_tied
from jax_attn.parity.cases import Case


@dataclass(frozen=True)
class Fixture:
    """A pair of modules, and the calls on which they are compared.

    Attributes:
        flax: makes the Flax module.
        torch: makes its counterpart.
        cases: the calls.
        whole_model: judged by the bound of a whole model.
    """

    flax: Callable[[], Any]
    torch: Callable[[], Any]
    cases: Callable[[], Sequence[Case]]
    whole_model: bool = False


def of_row(row: str, cases: Sequence[str] = (), more: Sequence[Case] = (), **arguments: Any) -> Fixture:
    """A row of the catalogue.

    Args:
        row: its name.
        cases: which of its calls are made; none is all.
        more: further calls.
        arguments: constructor arguments in place of the row's.
    """
    twin = CATALOGUE[row]
    twin = replace(twin, arguments={**twin.arguments, **arguments})

    def calls() -> list[Case]:
        return [*(case for case in twin.cases() if not cases or case.name in cases), *more]

    return Fixture(twin.flax, lambda: drawn(twin.torch()), calls, twin.whole_model)


def drawn(module: Any) -> Any:
    """A torch module whose vectors are moved: the ones and zeros that norms begin with hide much."""
    for number, parameter in enumerate(module.parameters()):
        if parameter.ndim == 1:
            noise = np.random.default_rng([5, number]).standard_normal(parameter.shape)
            parameter.data += 0.2 * parameter.new_tensor(noise)
    return module


def normal(name: str, *shape: int, mean: float = 0.0, size: float = 1.0) -> Case:
    """A call on normal numbers, in the exact lanes."""
    draw = np.random.default_rng(0).standard_normal(shape)
    return Case(name, (mean + size * draw,), lanes=EXACT)


ROWS = ("attention-masked", "torch-multihead-padding", "feed-forward-gelu", "embeddings",
        "embeddings-sinusoidal", "pooler", "classification-head")  # fmt: skip

# Rows of what models are built from, each with the calls on which its own mutations show.
PARTS: dict[str, Fixture] = {
    "attention-grouped": of_row("attention-grouped", ("shorter than its context",)),
    "attention-window": of_row("attention-window", ("plain", "padding on the left")),
    "attention-rotary": of_row("attention-rotary", ("plain",), qk_norm="rms"),
    "attention-rotary-partial": of_row("attention-rotary-partial", ("plain",)),
    "attention-alibi": of_row("attention-alibi", ("plain",)),
    "attention-softcap": of_row("attention-softcap", ("pairs",)),
    "attention-sinks": of_row("attention-sinks", ("pairs",)),
    "attention-gated": of_row("attention-gated", ("plain",)),
    "positions-t5": of_row("positions-t5", ("plain",)),
    "feed-forward-glu": of_row("feed-forward-glu", ("plain",)),
    "feed-forward-geglu": of_row("feed-forward-geglu", ("plain",)),
    "mixture-of-experts": of_row("mixture-of-experts", ("plain",)),
    "mixture-of-experts-shared": of_row("mixture-of-experts-shared", ("plain",)),
    "encoder-layer-scaled": of_row("encoder-layer-scaled", ("plain",)),
    "encoder-layer-deepnorm": of_row("encoder-layer-deepnorm", ("plain",)),
    "encoder-layer-sandwich": of_row(
        "encoder-layer-post", ("plain",), norm_placement="sandwich", norm="rms_unit_offset", eps=1e-6
    ),
    "attention-latent": of_row("attention-latent", ("plain",)),
    "attention-differential": of_row("attention-differential", ("plain",)),
    "attention-linear-causal": of_row("attention-linear-causal", ("plain",)),
    "attention-performer-causal": of_row("attention-performer-causal", ("unbatched",)),
    "gated-delta-net": of_row("gated-delta-net", ("plain",)),
    "attention-relative": of_row("attention-relative", ("plain",)),
    "attention-disentangled": of_row("attention-disentangled", ("plain",)),
    "attention-disentangled-buckets": of_row("attention-disentangled-buckets", ("plain",)),
    "attention-linformer": of_row("attention-linformer", ("plain",)),
    "attention-nystrom": of_row("attention-nystrom", ("plain", "padding")),
    "cached attention": Fixture(FlaxCached, torch_cached, cached_cases),
}

FIXTURES: dict[str, Fixture] = {
    **PARTS,
    "encoder-layer-post": of_row("encoder-layer-post", ("plain", "tiny variance", "padding")),
    # A mean at which a variance in one pass cancels, in float64 too.
    "encoder-layer-pre": of_row(
        "encoder-layer-pre", ("tiny variance",), [normal("mean 1000", 3, 5, 91, mean=1e3)], eps=1e-5
    ),
    "sdpa": of_row("sdpa", ("plain", "tiny variance")),
    # Numbers at which an activation that is cut off is cut off.
    "feed-forward-relu": of_row("feed-forward-relu", more=[normal("large", 3, 5, 37, size=30.0)]),
    "encoder": of_row("encoder", ("plain",)),
    **{row: of_row(row) for row in ROWS},
    "decoder layer": Fixture(FlaxDecoderLayer, torch_decoder_layer, decoder_cases),
    "decoder layer 5e5": Fixture(
        lambda: FlaxDecoderLayer(5e5), lambda: torch_decoder_layer(5e5), decoder_cases
    ),
    "image layer": Fixture(FlaxImageLayer, torch_image_layer, image_cases),
    "other norms": Fixture(FlaxNorms, torch_norms, norm_cases),
    "tied head": Fixture(FlaxTied, torch_tied, tied_cases),
    "edges": Fixture(FlaxEdges, torch_edges, edge_cases),
    "losses": Fixture(FlaxLosses, torch_losses, loss_cases),
}
