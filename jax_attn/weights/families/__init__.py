"""The families of checkpoints, a file each: what their `config.json` says, and what their tensors are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_attn.weights.families.bert import BERT
from jax_attn.weights.families.llama import LLAMA
from jax_attn.weights.families.t5 import MT5, T5, UMT5
from jax_attn.weights.families.vit import VIT
from jax_attn.weights.families.whisper import WHISPER
from jax_attn.weights.family import Family

FAMILIES: tuple[Family, ...] = (
    BERT,
    LLAMA,
    *T5,
    *MT5,
    *UMT5,
    VIT,
    WHISPER,
)

__all__ = ["FAMILIES", "family_of"]


def family_of(config: Mapping[str, Any], where: Path | str = "config") -> Family:
    """The family that a `config.json` is of.

    Raises:
        ValueError: there is none of that `model_type`.
    """
    for family in FAMILIES:
        fits = all(_is(config.get(name), wanted) for name, wanted in family.when.items())
        if config["model_type"] in family.model_types and fits:
            return family
    known = ", ".join(sorted({name for family in FAMILIES for name in family.model_types}))
    raise ValueError(f"{where}: model_type={config['model_type']!r} is not supported, only {known}")


def _is(value: Any, wanted: Any) -> bool:
    return bool(wanted(value)) if callable(wanted) else value == wanted


def __dir__() -> list[str]:
    return __all__
