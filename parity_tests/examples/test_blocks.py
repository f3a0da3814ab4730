"""The blocks of the example are those of transformers and torch, and short."""

import inspect

import blocks
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.cases import Case
from parity_tests.nn.layers.test_decoder import TRANSFORMER_NAMES
from parity_tests.nn.layers.test_decoder_layer import call_rotary
from parity_tests.references import assert_equals

RNG = np.random.default_rng(0)
X, REAL = RNG.standard_normal((3, 5, 24)), np.arange(5) < np.array([[5], [3], [1]])


def test_llamas():
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=29,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    names = [
        (r"^attention\.(\w)_proj", r"self_attn.\1_proj"),
        (r"^attention\.out_proj", "self_attn.o_proj"),
        (r"^attention_norm", "input_layernorm"),
        (r"^feed_forward_norm", "post_attention_layernorm"),
        (r"^feed_forward\.(\w+)", r"mlp.\1_proj"),
    ]
    assert_equals(
        blocks.llama_block(24, 4, 2, 29, rngs=nnx.Rngs(0)),
        LlamaDecoderLayer(config, 0),
        [Case("plain", (X,))],
        names=names,
        call_torch=lambda module, x: call_rotary(module, x, base=5e5),
    )


def test_debertas():
    """On real tokens: rows of padding attend to nothing there."""
    from transformers.models.deberta_v2.configuration_deberta_v2 import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer

    config = DebertaV2Config(
        hidden_size=24,
        intermediate_size=29,
        num_attention_heads=2,
        relative_attention=True,
        max_relative_positions=12,
        position_buckets=6,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        layer_norm_eps=1e-7,
    )
    names = [
        (r"^attention\.q_proj", "attention.self.query_proj"),
        (r"^attention\.k_proj", "attention.self.key_proj"),
        (r"^attention\.v_proj", "attention.self.value_proj"),
        (r"^attention\.out_proj", "attention.output.dense"),
        (r"^attention_norm", "attention.output.LayerNorm"),
        (r"^feed_forward\.up", "intermediate.dense"),
        (r"^feed_forward\.down", "output.dense"),
        (r"^feed_forward_norm", "output.LayerNorm"),
    ]

    def call_ours(module, x, table, real):
        return module(x, real, relative=table) * real[..., None]

    def call_theirs(module, x, table, real):
        pairs = (real[:, None, :] & real[:, :, None])[:, None]
        output, _ = module(x, pairs, rel_embeddings=table)
        return output * real[..., None]

    assert_equals(
        blocks.deberta_block(24, 2, 29, 6, rngs=nnx.Rngs(0)),
        DebertaV2Layer(config),
        [Case("padding", (X, RNG.standard_normal((12, 24)), REAL))],
        names=names,
        call_flax=call_ours,
        call_torch=call_theirs,
    )


def test_the_decoder_block_of_2017():
    theirs = torch.nn.TransformerDecoderLayer(24, 2, 29, batch_first=True)
    memory = RNG.standard_normal((3, 7, 24))
    memory_real = np.arange(7) < np.array([[7], [3], [1]])

    def call_torch(module, x, memory, real, memory_real):
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        padding = {"tgt_key_padding_mask": ~real, "memory_key_padding_mask": ~memory_real}
        return module(x, memory, tgt_mask=causal, **padding)

    assert_equals(
        blocks.decoder_block(24, 2, 29, rngs=nnx.Rngs(0)),
        theirs,
        [Case("padding in both", (X, memory, REAL, memory_real))],
        names=[(r"\bfeed_forward_norm", "norm3"), *TRANSFORMER_NAMES],
        call_torch=call_torch,
    )


@pytest.mark.parametrize("block", [blocks.llama_block, blocks.deberta_block, blocks.decoder_block])
def test_each_is_short(block):
    assert len(inspect.getsource(block).splitlines()) < 25


def test_it_runs(capsys):
    assert blocks.main() == 0
    assert "token by token" in capsys.readouterr().out
