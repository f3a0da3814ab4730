import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.tied_head import TiedHead
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestCausalLMHead(TwinContract):
    rows = ("causal-lm-head",)


@jax.enable_x64(True)
def test_logits_are_bounded_and_a_tied_head_gives_the_same():
    options = {"softcap": 0.5, "rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    module, tied, x = CausalLMHead(7, 11, **options), TiedHead(11, **options), draw(3, 5, 7)
    kernel = module.linear.kernel[...]
    logits = compiled(module)(x)
    assert_same(logits, 0.5 * np.tanh(np.asarray(x) @ np.asarray(kernel) / 0.5))
    assert_same(compiled(tied)(x, kernel.T), logits)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got vocab_size=0"):
        CausalLMHead(7, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="softcap must be above 0, got softcap=-1"):
        CausalLMHead(7, 11, softcap=-1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        CausalLMHead(7, 11, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
