"""`MultiHeadAttention` with the options of known models, beside transformers' own attention of each."""

from typing import Any

import numpy as np
import torch
from flax import nnx

from jax_attn.nn import MultiHeadAttention, RotaryPositions
from jax_attn.parity.cases import Case
from parity_tests.references import assert_equals

SIZES = {"hidden_size": 26, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
BASE, TOKENS = 500.0, 7
NAMES = [(r"^out_proj", "o_proj")]


def ours(**options: Any) -> MultiHeadAttention:
    given = {"positions": RotaryPositions(8, BASE), "bias": False, **options}
    return MultiHeadAttention(26, 6, 2, head_dim=8, is_causal=True, rngs=nnx.Rngs(0), **given)


def cases() -> list[Case]:
    return [Case("plain", (np.random.default_rng(0).standard_normal((3, TOKENS, 26)),))]


def angles(x: torch.Tensor, width: int) -> torch.Tensor:
    frequencies = BASE ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    return torch.arange(x.shape[1], dtype=x.dtype)[:, None] * frequencies


def added_mask(x: torch.Tensor, window: int = TOKENS) -> torch.Tensor:
    ahead = torch.arange(x.shape[1]) - torch.arange(x.shape[1])[:, None]
    return torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype).masked_fill(
        (ahead > 0) | (ahead <= -window), -torch.inf
    )[None, None]


def call(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Call an attention of transformers, which is given cosines and sines of all its features, and its mask."""
    both = torch.cat([angles(x, 8)] * 2, dim=-1)[None]
    return module(x, (both.cos(), both.sin()), added_mask(x))[0]


def test_qwen_3_norms_its_queries_and_keys():
    from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    config = Qwen3Config(**SIZES, attn_implementation="eager")
    assert_equals(ours(qk_norm="rms"), Qwen3Attention(config, 0), cases(), names=NAMES, call_torch=call)


def test_mistral_has_a_window():
    from transformers.models.mistral.configuration_mistral import MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralAttention

    def call_windowed(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([angles(x, 8)] * 2, dim=-1)[None]
        return module(x, (both.cos(), both.sin()), added_mask(x, window=3))[0]

    config = MistralConfig(**SIZES, sliding_window=3, attn_implementation="eager")
    theirs = MistralAttention(config, 0)
    assert_equals(ours(window=3), theirs, cases(), names=NAMES, call_torch=call_windowed)


def test_gpt_oss_has_sinks():
    from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention

    def call_halves(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        half = angles(x, 8)[None]
        return module(x, (half.cos(), half.sin()), added_mask(x))[0]

    config = GptOssConfig(**SIZES, attention_bias=True, attn_implementation="eager")
    theirs = GptOssAttention(config, 1)
    assert_equals(ours(bias=True, sinks="learned"), theirs, cases(), names=NAMES, call_torch=call_halves)


class SplitQueries(torch.nn.Module):
    """Qwen 3-Next's attention, whose queries and gates, one projection of each head's, are two here."""

    def __init__(self, theirs: torch.nn.Module):
        super().__init__()
        self.q_proj, self.gate_proj = (torch.nn.Linear(26, 48, bias=False) for _ in range(2))
        for name in ("k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            setattr(self, name, getattr(theirs, name))
        self.theirs = [theirs]  # in a list: its parameters are not this module's a second time

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = [layer.weight.unflatten(0, (6, 8)) for layer in (self.q_proj, self.gate_proj)]
        both = torch.cat([angles(x, 4)] * 2, dim=-1)[None]
        (theirs,) = self.theirs
        weights = {f"{name}.weight": getattr(self, name).weight for name in ("k_proj", "v_proj", "o_proj")}
        weights |= {f"{name}.weight": getattr(self, name).weight for name in ("q_norm", "k_norm")}
        weights["q_proj.weight"] = torch.cat(halves, dim=1).flatten(0, 1)
        arguments = (x, (both.cos(), both.sin()), added_mask(x))
        return torch.func.functional_call(theirs, weights, arguments)[0]


def test_qwen_3_next_has_gates_and_turns_some_features():
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention

    config = Qwen3NextConfig(**SIZES, attn_implementation="eager")
    module = ours(positions=RotaryPositions(8, BASE, rotary_dim=4), qk_norm="rms_unit_offset", gate="element")
    assert_equals(module, SplitQueries(Qwen3NextAttention(config, 0)), cases(), names=NAMES)
