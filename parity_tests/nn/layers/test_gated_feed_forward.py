import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue.cases import token_cases
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals

NAMES = [(r"^(gate|up|down)\b", r"\1_proj")]


class TestGatedFeedForward(TwinContract):
    rows = ("feed-forward-swiglu", "feed-forward-glu", "feed-forward-reglu", "feed-forward-geglu")


def test_the_feed_forward_layers_of_llama_and_gemma():
    from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    sizes = {"hidden_size": 7, "intermediate_size": 29, "num_attention_heads": 1, "head_dim": 2}
    cases = token_cases(7)[:1]
    ours = GatedFeedForward(7, 29, bias=True, rngs=nnx.Rngs(0))
    assert_equals(ours, LlamaMLP(LlamaConfig(**sizes, mlp_bias=True)), cases, names=NAMES)
    ours = GatedFeedForward(7, 29, "gelu_pytorch_tanh", rngs=nnx.Rngs(0))
    assert_equals(ours, Gemma2MLP(Gemma2Config(**sizes)), cases, names=NAMES)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'swiglu'"):
        GatedFeedForward(7, 29, "swiglu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        GatedFeedForward(0, 29, rngs=nnx.Rngs(0))
    module = GatedFeedForward(7, 29, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        module(jnp.ones((5, 8)))
