"""The families of checkpoints, a file each: what their `config.json` says, and what their tensors are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_attn.weights.config import NotedConfig
from jax_attn.weights.families.albert import ALBERT
from jax_attn.weights.families.bert import BERT
from jax_attn.weights.families.deberta_v2 import DEBERTA_FAMILIES
from jax_attn.weights.families.dinov2 import DINOV2_FAMILIES
from jax_attn.weights.families.distilbert import DISTILBERT
from jax_attn.weights.families.electra import ELECTRA
from jax_attn.weights.families.gemma2 import GEMMA2
from jax_attn.weights.families.gpt2 import GPT2
from jax_attn.weights.families.llama import LLAMA
from jax_attn.weights.families.mistral import MISTRAL
from jax_attn.weights.families.modernbert import MODERNBERT
from jax_attn.weights.families.mpnet import MPNET
from jax_attn.weights.families.qwen import QWEN2, QWEN3
from jax_attn.weights.families.roberta import ROBERTA, XLM_ROBERTA
from jax_attn.weights.families.t5 import MT5, T5, UMT5
from jax_attn.weights.families.vit import VIT
from jax_attn.weights.families.whisper import WHISPER
from jax_attn.weights.family import Family
from jax_attn.weights.rules import Names

FAMILIES: tuple[Family, ...] = (
    ALBERT,
    BERT,
    *DEBERTA_FAMILIES,
    *DINOV2_FAMILIES,
    DISTILBERT,
    ELECTRA,
    GEMMA2,
    GPT2,
    LLAMA,
    MISTRAL,
    MODERNBERT,
    MPNET,
    *MT5,
    QWEN2,
    QWEN3,
    ROBERTA,
    *T5,
    *UMT5,
    VIT,
    XLM_ROBERTA,
    WHISPER,
)

__all__ = ["FAMILIES", "family_of", "names_of_checkpoint"]


def family_of(config: Mapping[str, Any], where: Path | str = "config") -> Family:
    """The family that a `config.json` is of.

    Raises:
        ValueError: there is none of that `model_type`.
    """
    for family in FAMILIES:
        if config["model_type"] in family.model_types and family.means(config):
            return family
    known = ", ".join(sorted({name for family in FAMILIES for name in family.model_types}))
    raise ValueError(f"{where}: model_type={config['model_type']!r} is not supported, only {known}")


def names_of_checkpoint(module: Any) -> Names:
    """From the keys of what `from_pretrained` or `from_config` built to its file's; () of other modules."""
    config = getattr(module, "config", None)
    return family_of(config).keys(config["architectures"][0]) if isinstance(config, NotedConfig) else ()


def __dir__() -> list[str]:
    return __all__
