from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.encoder import Encoder
from jax_attn.weights.state_dict import numpy_state_dict
from parity_tests.contract import TwinContract, assert_compiled_either_way_is_the_same
from parity_tests.from_scratch.properties import assert_same, draw


class TestEncoder(TwinContract):
    rows = ("encoder", "encoder-scanned", "encoder-pre-scanned")
    rounds = False  # its layer, and the classifier, which holds one


@pytest.mark.parametrize("row", [pytest.param("encoder", marks=pytest.mark.slow), "encoder-scanned"])
def test_nnx_jit_gives_what_jax_jit_gives(row):
    """The contract has it of every class, among the slow tests."""
    assert_compiled_either_way_is_the_same(row)


def encoder(**options) -> Encoder:
    return Encoder(2, 26, 2, 29, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def output_and_gradients(module: Encoder, x: jax.Array) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """The output, and the gradients by torch's keys, which are the same for a list and a stack."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def loss(params: nnx.State) -> tuple[jax.Array, jax.Array]:
        y = nnx.merge(graphdef, params, rest, copy=True)(x)
        return jnp.sum(y**2), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    return y, numpy_state_dict(nnx.merge(graphdef, gradients, rest))


ARGUMENTS = {"dropout": 0.5, "attention_dropout": 0.3, "norm_placement": "pre", "final_norm": True}


@cache
def one_by_one() -> tuple[jax.Array, dict[str, np.ndarray]]:
    """What a list of layers gives."""
    return output_and_gradients(encoder(**ARGUMENTS), draw(3, 5, 26))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"scan": True}, marks=pytest.mark.slow),
        pytest.param({"remat": True}, marks=pytest.mark.slow),
        {"scan": True, "remat": True},
    ],
)
@jax.enable_x64(True)
def test_list_and_stack_are_the_same_from_the_same_seed_dropout_included(options):
    expected, by_key = one_by_one()
    y, gradients = output_and_gradients(encoder(**ARGUMENTS, **options), draw(3, 5, 26))
    assert_same(y, expected)
    assert gradients.keys() == by_key.keys()
    for key in by_key:
        assert_same(gradients[key], by_key[key])


@pytest.mark.parametrize("graph_mode", [pytest.param(True, marks=pytest.mark.slow), False])
def test_each_layer_of_a_stack_draws_its_own_dropout_and_each_call_anew(graph_mode):
    with nnx.set_graph_mode(graph_mode):
        module = Encoder(3, 26, 2, 29, dropout=0.5, scan=True, rngs=nnx.Rngs(0))
        keys = jax.random.key_data(module.layers.dropout.rngs.key[...])
        assert len(np.unique(keys, axis=0)) == 3
        x = jnp.ones((1, 5, 26))
        first, second = module(x), module(x)
        assert np.abs(first - second).max() > 0.1
        np.testing.assert_array_equal(module.layers.dropout.rngs.count[...], [2, 2, 2])


LOOPED = {"scan": True, "remat": True}
FEW = [(LOOPED, False)]
MORE = [({}, True), ({}, False), ({"scan": True}, True), ({"scan": True}, False), (LOOPED, True)]


@pytest.mark.parametrize(
    ("options", "graph_mode"), [*FEW, *(pytest.param(*given, marks=pytest.mark.slow) for given in MORE)]
)
def test_a_model_merged_inside_grad_runs(options, graph_mode):
    with nnx.set_graph_mode(graph_mode):
        module = Encoder(3, 26, 2, 29, dropout=0.5, **options, rngs=nnx.Rngs(0))
        module.eval()
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        x = jnp.ones((1, 5, 26))
        loss = lambda params: jnp.sum(nnx.merge(graphdef, params, rest)(x)[..., 0])  # noqa: E731
        gradients = jax.jit(jax.grad(loss))(params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_what_a_stack_holds():
    module = Encoder(3, 26, 2, 29, scan=True, rngs=nnx.Rngs(0))
    assert module.stacked == ("layers",)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(nnx.state(module.layers, nnx.Param)))
    assert Encoder(3, 26, 2, 29, rngs=nnx.Rngs(0)).stacked == ()


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got num_layers=0"):
        Encoder(0, 26, 2, 29, rngs=nnx.Rngs(0))
    for scan in (False, True):
        module = Encoder(3, 26, 2, 29, scan=scan, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(5, 25\)"):
            module(jnp.ones((5, 25)))
        with pytest.raises(ValueError, match="mask must be a boolean array, True = attend, got float32"):
            module(jnp.ones((3, 5, 26)), jnp.ones((3, 5)))


MIXED = [("post", None, jnp.bfloat16), ("post", jnp.bfloat16, jnp.float32)]
OTHERS = [
    (placement, dtype, dtype or jnp.float32)
    for placement in ("post", "pre")
    for dtype in (None, jnp.bfloat16)
]
OTHERS += [("pre", *dtypes) for _, *dtypes in MIXED]


@pytest.mark.parametrize(
    ("norm_placement", "dtype", "given"),
    [*MIXED, *(pytest.param(*given, marks=pytest.mark.slow) for given in OTHERS)],
)
def test_a_stack_takes_and_gives_the_dtypes_that_a_list_does(norm_placement, dtype, given):
    x = jnp.ones((2, 5, 8), given)
    options = {"norm_placement": norm_placement, "dtype": dtype}
    listed, scanned = (
        jax.eval_shape(Encoder(2, 8, 2, 16, scan=scan, rngs=nnx.Rngs(0), **options), x)
        for scan in (False, True)
    )
    assert scanned.dtype == listed.dtype
