"""Attention variants and transformer components as Flax NNX modules, each beside a PyTorch twin.

The twins live in `torch_ref`, at the same path and under the same name; `jax-attn verify` proves that the
two compute the same thing. Importing this package never imports torch, and is cheap: what is asked for is
imported when it is asked for.

    from jax_attn import dot_product_attention, flex_attention
    from jax_attn.nn import Encoder, MultiHeadAttention
    from jax_attn.parity import compare
    from jax_attn.weights import from_pretrained, load_state_dict, save_pretrained, state_dict
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_attn import (
        catalogue,
        from_scratch,
        functional,
        models,
        nn,
        optim,
        parity,
        training,
        visualize,
        weights,
    )
    from jax_attn.functional import (
        AuxRequest,
        BlockMask,
        and_masks,
        create_block_mask,
        dot_product_attention,
        flex_attention,
        mask_mods,
        or_masks,
        score_mods,
    )
    from jax_attn.host_memory import keep_freed_memory

__version__ = "0.1.0"

__all__ = [
    "AuxRequest",
    "BlockMask",
    "and_masks",
    "catalogue",
    "create_block_mask",
    "dot_product_attention",
    "flex_attention",
    "from_scratch",
    "functional",
    "keep_freed_memory",
    "mask_mods",
    "models",
    "nn",
    "optim",
    "or_masks",
    "parity",
    "score_mods",
    "training",
    "visualize",
    "weights",
]

_ROOMS = {
    "catalogue",
    "from_scratch",
    "functional",
    "models",
    "nn",
    "optim",
    "parity",
    "training",
    "visualize",
    "weights",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    room = "host_memory" if name == "keep_freed_memory" else "functional"
    return getattr(import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return __all__
