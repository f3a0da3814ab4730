import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.relative_shift import relative_shift
from jax_attn.nn.attention.relative import RelativeAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_causal,
    assert_nothing_to_attend_to_gives,
    assert_same,
    compiled,
    draw,
)
from parity_tests.nn.attention.decoding import assert_decodes_as_at_once
from parity_tests.references import assert_equals


class TestRelativeAttention(TwinContract):
    rows = ("attention-relative", "attention-relative-both-ways", "attention-relative-window")
    rounds = False
    elsewhere = ("attention-relative-both-ways",)  # transformers below


def attention(**options) -> RelativeAttention:
    given = {"embed_dim": 26, "num_heads": 2, "is_causal": True, **options}
    return RelativeAttention(**given, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))


@pytest.mark.parametrize("is_causal", [pytest.param(True, marks=pytest.mark.slow), False])
def test_transformers_xlnet_computes_the_same(is_causal):
    """Without its residual and norm, and with and without a memory."""
    import torch
    from transformers.models.xlnet.configuration_xlnet import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    core = XLNetRelativeAttention(XLNetConfig(d_model=26, n_head=2, dropout=0.0))
    core.post_attention = lambda h, heads: torch.einsum("ibnd,hnd->ibh", heads, core.o)

    class Theirs(torch.nn.Module):
        """Its layout is (t, b, d), and its matrices are (d, n, h)."""

        def __init__(self):
            super().__init__()
            for name in "qkvr":
                setattr(self, f"{name}_proj", torch.nn.Linear(26, 26, bias=False))
            self.out_proj = torch.nn.Linear(26, 26, bias=False)
            self.content_bias = torch.nn.Parameter(torch.zeros(2, 13))
            self.position_bias = torch.nn.Parameter(torch.zeros(2, 13))

        def forward(self, x, memory=None):
            tokens, past = x.shape[1], 0 if memory is None else memory.shape[1]
            weights = {name: getattr(self, f"{name}_proj").weight.T.reshape(26, 2, 13) for name in "qkvr"}
            weights |= {"o": self.out_proj.weight.reshape(26, 2, 13)}
            weights |= {"r_w_bias": self.content_bias, "r_r_bias": self.position_bias}
            distances = torch.arange(past + tokens, -tokens, -1, dtype=x.dtype)
            angles = distances[:, None] * 1e4 ** (-torch.arange(0, 26, 2, dtype=x.dtype) / 26)
            waves = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].expand(-1, len(x), -1)
            hidden = torch.ones(tokens, past + tokens, dtype=x.dtype).triu(past + 1)[:, :, None, None]
            given = {"mems": None if memory is None else memory.transpose(0, 1)}
            masks = (hidden if is_causal else None, None)
            call = (x.transpose(0, 1), None, *masks, waves, None)
            return torch.func.functional_call(core, weights, call, given)[0].transpose(0, 1)

    x, memory = (np.asarray(draw(2, n, 26, seed=n)) for n in (5, 3))
    cases = [Case("memory", (x, memory)), Case("none", (x,))]
    assert_equals(attention(is_causal=is_causal), Theirs(), cases)


@pytest.mark.parametrize(("queries", "keys"), [(1, 5), (3, 3), (3, 7), (5, 2)])
def test_the_shift_puts_each_distance_where_it_belongs(queries, keys):
    scores = np.random.default_rng(0).standard_normal((2, queries, queries + keys - 1))
    shifted = relative_shift(jnp.asarray(scores))
    assert shifted.shape == (2, queries, keys)
    for i, j in np.ndindex(queries, keys):
        np.testing.assert_array_equal(shifted[:, i, j], jnp.asarray(scores[:, i, j - i + queries - 1]))


@jax.enable_x64(True)
def test_a_memory_is_what_came_before():
    """A segment after a memory gives what it gives at the end of the whole; and so it is with the weights."""
    module, x = attention(), draw(2, 8, 26)
    graphdef, state = nnx.split(module)

    @compiled
    def run(x):
        of_segment = module(x[:, 3:], x[:, :3], return_weights=True)
        captured = capture_attention_weights(nnx.merge(graphdef, state))(x[:, 3:], x[:, :3])[1][""]
        return module(x, return_weights=True), of_segment, captured

    (whole, all_weights), (output, weights), captured = run(x)
    assert_same(output, whole[:, 3:])
    assert_same(weights, all_weights[:, :, 3:])
    assert_same(captured, weights)
    assert_causal(module, x)


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 3])
@jax.enable_x64(True)
def test_token_by_token_is_at_once(window):
    assert_decodes_as_at_once(attention(bias=True, window=window), draw(2, 9, 26))


@jax.enable_x64(True)
def test_a_packed_text_gets_what_it_gets_alone():
    module, x = attention(is_causal=False, window=4), draw(1, 8, 26)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]])
    packed, alone = compiled(lambda x: (module(x, segment_ids=segments), module(x[:, 3:])))(x)
    assert_same(packed[:, 3:], alone)


@jax.enable_x64(True)
def test_where_nothing_may_be_attended_to_only_the_bias_is_left():
    module = attention(bias=True)
    assert_nothing_to_attend_to_gives(
        lambda x, mask=None: module(x, mask=mask), draw(3, 5, 26), module.out_proj.bias[...]
    )


def test_bad_arguments_are_refused():
    for options, message in (
        ({"num_heads": 3}, "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"),
        ({"embed_dim": 27, "head_dim": 5}, "embed_dim must be divisible by the two waves of a frequency"),
        ({"head_dim": 0}, "head_dim must be at least 1, got head_dim=0"),
        ({"window": 0}, "window must be at least 1, got window=0"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(**options)
    with pytest.raises(ValueError, match="a cache is for attention with is_causal=True"):
        attention(is_causal=False).init_cache(2, 11)


def test_bad_input_is_refused():
    module, x = attention(), jnp.ones((2, 5, 26))
    cache = module.init_cache(2, 4)
    for call, message in (
        (lambda: module(x[..., :25]), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(2, 5, 25\)"),
        (lambda: module(x, x[..., :25]), r"memory must have shape \(b, t, 26\), got \(2, 5, 25\)"),
        (lambda: module(x, x[:1]), "memory must have the batch size of x, 2, got 1"),
        (lambda: module(x, x, jnp.ones((2, 5), bool)), r"mask must have one of the shapes \(2, 10\)"),
        (lambda: module(x[:, :1], x, cache=cache), "memory cannot be given together with a cache"),
        (
            lambda: module(x, x, segment_ids=jnp.ones((2, 5), int)),
            "segment_ids cannot be given together with a memory or a cache",
        ),
        (lambda: module(x, cache=cache), "the cache is for 4 tokens: 0 are in it, and 5 do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
