import jax.numpy as jnp
import pytest

from jax_attn.catalogue import CATALOGUE
from parity_tests.contract import TwinContract


class TestAudioEncoder(TwinContract):
    rows = ("audio-encoder",)
    rounds = drops = False  # its parts do


def test_bad_sounds_are_refused():
    module = CATALOGUE["audio-encoder"].flax()
    with pytest.raises(
        ValueError, match="attention_mask must be None: an encoder of sound reads silence too"
    ):
        module(jnp.ones((1, 5, 11)), jnp.ones((1, 11)))
    with pytest.raises(ValueError, match="the number of tokens must be at most num_embeddings=7, got 8"):
        module(jnp.ones((1, 5, 15)))
