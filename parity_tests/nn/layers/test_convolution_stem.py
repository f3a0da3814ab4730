import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue.cases import grid_cases
from jax_attn.nn.layers.convolution_stem import ConvolutionStem
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.primitives import LayerNorm
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestConvolutionStem(TwinContract):
    rows = ("convolution-stem",)


class EmptyEncoder(nnx.Module):
    """Whisper's encoder without layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = ConvolutionStem(5, 8, rngs=rngs)
        self.position = LearnedPositions(3, 8, rngs=rngs)
        self.norm = LayerNorm(8, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.position(self.stem(x)))


def test_that_of_whisper():
    from transformers.models.whisper.configuration_whisper import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=8, num_mel_bins=5, max_source_positions=3, encoder_layers=0, encoder_attention_heads=1
    )
    names = [(r"^stem\.", ""), (r"^position\.", "embed_positions."), (r"^norm\.", "layer_norm.")]

    def features_first(module, x):
        return module(x.movedim(-1, -2)).last_hidden_state

    cases = grid_cases((6, 5))[:1]
    ours, theirs = EmptyEncoder(nnx.Rngs(0)), WhisperEncoder(config)
    assert_equals(ours, theirs, cases, names=names, call_torch=features_first)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        ConvolutionStem(5, 7, "gleu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_features must be at least 1, got num_features=0"):
        ConvolutionStem(0, 7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 5\) or \(b, t, 5\), got \(5, 6\)"):
        ConvolutionStem(5, 7, rngs=nnx.Rngs(0))(jnp.ones((5, 6)))
