import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.models import text_decoder
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled
from parity_tests.models.decoding import IDS, assert_decodes


class TestTextDecoder(TwinContract):
    rows = ("text-decoder",)
    rounds = drops = False  # its parts do
    elsewhere = ("text-decoder",)  # the families of decoders


def decoder(rotary: bool = False, dtype=jnp.float64):
    return text_decoder(rotary).build("jax_attn", rngs=nnx.Rngs(0), param_dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rotary", "padding"),
    [
        (True, "left"),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in ((False, "left"), (True, "right"), (False, "right"))
        ),
    ],
)
@jax.enable_x64(True)
def test_a_cache_changes_nothing(rotary, padding):
    assert_decodes(decoder(rotary), padding)


@jax.enable_x64(True)
def test_the_cache_of_the_beams_that_go_on():
    module = decoder()
    rows = np.array([2, 0, 0])

    @compiled
    def run(ids):
        _, cache = module(ids[:, :4], cache=module.init_cache(3, 7))
        after, _ = module(ids[rows, 4:], cache=module.reorder_cache(cache, jnp.asarray(rows)))
        return after, module(jnp.concatenate([ids[rows, :4], ids[rows, 4:]], 1))[:, 4:]

    assert_same(*run(IDS))


def test_bad_input_is_refused():
    module = decoder(dtype=jnp.float32)
    with pytest.raises(ValueError, match="the number of tokens must be at most max_positions=11, got 12"):
        module(jnp.zeros((1, 12), jnp.int32))
    with pytest.raises(ValueError, match="attention_mask must have the shape of input_ids"):
        module(IDS, IDS[:, :4])
    with pytest.raises(ValueError, match="the cache is for 3 tokens"):
        module(IDS, cache=module.init_cache(3, 3))
