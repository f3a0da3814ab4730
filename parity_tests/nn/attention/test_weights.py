from inspect import signature

import chex
import jax
import jax.extend
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.nn import (
    AdditiveAttention,
    EncoderLayer,
    LinearAttention,
    MultiHeadAttention,
    RotaryPositions,
    Stack,
    capture_attention,
    capture_attention_weights,
)
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class Twice(nnx.Module):
    """One attention that is called twice, and another."""

    def __init__(self, rngs: nnx.Rngs):
        options = {"rngs": rngs, "param_dtype": jnp.float64}
        self.shared = MultiHeadAttention(26, 2, is_causal=True, **options)
        self.blocks = nnx.List([MultiHeadAttention(26, 2, talking_heads=True, **options)])

    def __call__(self, x):
        return self.blocks[0](self.shared(self.shared(x)))


@pytest.mark.parametrize("graph_mode", [True, False])
@jax.enable_x64(True)
def test_weights_are_captured_by_path_and_leave_the_model_as_it_was(graph_mode):
    model, x = Twice(nnx.Rngs(0)), draw(3, 5, 26)
    with nnx.set_graph_mode(graph_mode):
        before = jax.tree.structure(nnx.state(model)), nnx.graphdef(model)
        output, weights = compiled(lambda x: capture_attention_weights(model)(x))(x)
        assert (jax.tree.structure(nnx.state(model)), nnx.graphdef(model)) == before
    assert set(weights) == {"shared", "blocks.0"}

    @compiled
    def by_hand(x):
        once, first = model.shared(x, return_weights=True)
        twice, second = model.shared(once, return_weights=True)
        last, third = model.blocks[0](twice, return_weights=True)
        return last, (first, second), third

    expected, of_shared, of_block = by_hand(x)
    assert_same(output, expected)
    for captured, asked in zip(weights["shared"], of_shared, strict=True):
        assert_same(captured, asked)
    assert_same(weights["blocks.0"], of_block)
    assert_same(of_shared[0].sum(-1), jnp.ones((3, 2, 5)))


# Those of the other classes are compared where their module is proved.
NOT_ELSEWHERE = "additive", "general", "linformer", "nystrom", "performer", "pooling"


@pytest.mark.parametrize("kind", NOT_ELSEWHERE)
@jax.enable_x64(True)
def test_what_is_captured_is_what_is_returned(kind):
    twin = CATALOGUE[f"attention-{kind}"]
    module, case = twin.flax(), twin.cases()[0]
    module.eval()
    assert "return_weights" in signature(type(module).__call__).parameters
    graphdef, state = nnx.split(module)

    @compiled
    def run(state):
        capturing = capture_attention_weights(nnx.merge(graphdef, state))
        return capturing(*case.args, return_weights=True), capturing(*case.args)

    (((_, returned), captured), (_, unasked)) = run(state)
    chex.assert_trees_all_equal(captured, {"": returned})
    assert unasked[""].shape == returned.shape


@jax.enable_x64(True)
def test_weights_of_another_attention_are_captured_in_a_loop_too():
    """Of linear attention, which makes no weights unless someone wants them."""

    def layers() -> list[EncoderLayer]:
        options = [{"rngs": nnx.Rngs(seed), "param_dtype": jnp.float64} for seed in range(2)]
        return [
            EncoderLayer(26, hidden_dim=7, attention=LinearAttention(26, 2, **each), **each)
            for each in options
        ]

    x, stacks = draw(3, 5, 26), [Stack(layers(), scan=scan) for scan in (False, True)]
    (output, listed), (same, looped) = compiled(
        lambda x: [capture_attention_weights(stack)(x) for stack in stacks]
    )(x)
    assert_same(same, output)
    assert listed.keys() == {"layers.0.attention", "layers.1.attention"}
    assert_same(looped["layers.attention"], jnp.stack([listed[f"layers.{i}.attention"] for i in range(2)]))


def test_what_does_not_fit_into_memory_is_not_computed_unless_asked():
    """Without anyone who captures, no matrix of weights is made."""
    module = MultiHeadAttention(8, 2, is_causal=True, rngs=nnx.Rngs(0))
    x = jax.ShapeDtypeStruct((1, 4096, 8), jnp.float32)
    graphdef, state = nnx.split(module)

    def holds_the_matrix(function):
        program = jax.make_jaxpr(function)(state, x).jaxpr
        return any(out.aval.shape[-2:] == (4096, 4096) for eqn in _equations(program) for out in eqn.outvars)

    assert not holds_the_matrix(lambda state, x: nnx.merge(graphdef, state)(x))
    assert holds_the_matrix(lambda state, x: capture_attention_weights(nnx.merge(graphdef, state))(x))


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


@jax.enable_x64(True)
def test_queries_and_keys_are_captured_as_the_scores_see_them():
    """After norms and rotation, with the scale; of scores that are no product there are none."""
    options = {"positions": RotaryPositions(6), "qk_norm": "rms", "scale": 0.3}
    rngs, x = nnx.Rngs(0), draw(3, 5, 24)
    model = MultiHeadAttention(24, 4, num_kv_heads=2, **options, rngs=rngs, param_dtype=jnp.float64)
    (found,) = compiled(lambda x: capture_attention(model)(x)[1])(x)[""]
    key = found.key.repeat(2, axis=2)
    assert_same(nnx.softmax(jnp.einsum("btnh,bsnh->bnts", found.query, key)), found.weights)
    additive = AdditiveAttention(24, 7, rngs=rngs, param_dtype=jnp.float64)
    (found,) = compiled(lambda x: capture_attention(additive)(x, draw(3, 7, 7))[1])(x)[""]
    assert (found.query, found.key) == (None, None)
