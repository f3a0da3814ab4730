"""torch state_dicts into NNX modules and back: bit for bit, and every error by name."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from jax_attn.nn.primitives import Buffer, Embedding, Linear
from jax_attn.weights import StateDictError, load_state_dict, numpy_state_dict, state_dict

ROOT = Path(__file__).parents[2]
DTYPES = ["float64", "float32", "float16", "bfloat16"]


class Net(nnx.Module):
    def __init__(self, d_in: int = 3, d_out: int = 5, dtype="float32", *, rngs: nnx.Rngs):
        self.token = Embedding(7, d_in, rngs=rngs, param_dtype=dtype)
        self.out = Linear(d_in, d_out, rngs=rngs, param_dtype=dtype)
        self.mask = Buffer(jnp.tril(jnp.ones((d_in, d_in), bool)))
        self.waves = Buffer(jnp.sin(jnp.arange(1, 9, dtype=jnp.float32)))


class TorchNet(nn.Module):
    def __init__(self, d_in: int = 3, d_out: int = 5):
        super().__init__()
        self.token = nn.Embedding(7, d_in)
        self.out = nn.Linear(d_in, d_out)
        self.register_buffer("mask", torch.tril(torch.ones(d_in, d_in, dtype=torch.bool)))
        self.register_buffer("waves", torch.sin(torch.arange(1.0, 9.0)))


def net(seed: int = 0, **kwargs) -> Net:
    return Net(**kwargs, rngs=nnx.Rngs(seed))


def bits(state) -> dict[str, bytes]:
    return {key: np.ascontiguousarray(value).tobytes() for key, value in state.items()}


def errors_of(module: nnx.Module, tensors, **kwargs) -> list[str]:
    before = bits(numpy_state_dict(module))
    with pytest.raises(StateDictError) as caught:
        load_state_dict(module, tensors, **kwargs)
    assert bits(numpy_state_dict(module)) == before, "a refused state_dict must change nothing"
    return caught.value.errors


def random_net(dtype: str, d_in: int, d_out: int, seed: int) -> Net:
    """A net of any finite weights, without compiling an initialiser for each shape."""
    module = nnx.eval_shape(lambda: net(d_in=d_in, d_out=d_out, dtype=dtype))
    draw = np.random.default_rng(seed).standard_normal
    state = nnx.state(module)
    nnx.update(module, jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape), leaf.dtype), state))
    return module


@given(st.sampled_from(DTYPES), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9))
@jax.enable_x64(True)
def test_a_round_trip_is_bitwise(dtype, d_in, d_out, seed):
    module, other = (random_net(dtype, d_in, d_out, seed) for seed in (seed, seed + 1))
    other.mask, other.waves = Buffer(module.mask[...]), Buffer(module.waves[...])
    tensors = state_dict(module)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert str(tensors["out.weight"].dtype) == f"torch.{dtype}"
    assert bits(numpy_state_dict(other)) != bits(numpy_state_dict(module))
    assert load_state_dict(other, tensors) is other
    assert bits(numpy_state_dict(other)) == bits(numpy_state_dict(module))


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float64", *(pytest.param(f"float{n}", marks=pytest.mark.slow) for n in (16, 32))]
)
@jax.enable_x64(True)
def test_torch_loads_it_strictly_and_back(dtype):
    torch_net = TorchNet().to(getattr(torch, dtype))
    torch_net.waves = TorchNet().waves
    module = load_state_dict(net(dtype=dtype), torch_net.state_dict())
    tensors = state_dict(module)
    assert tensors.keys() == torch_net.state_dict().keys()
    torch_net.load_state_dict(tensors)
    x = torch.ones(3, dtype=getattr(torch, dtype))
    ours, theirs = np.asarray(module.out(jnp.ones(3, dtype)), np.float64), torch_net.out(x).detach().double()
    # Either side rounds a sum of three products: they may end on neighbouring numbers.
    neighbour = float(jnp.finfo(dtype).eps) * max(1.0, float(theirs.abs().max()))
    assert np.abs(ours - theirs.numpy()).max() <= 2 * neighbour


def test_float8_passes():
    class Eight(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.zeros((3, 5), jnp.float8_e4m3fn))

    tensor = torch.arange(15.0).reshape(5, 3).to(torch.float8_e4m3fn)
    module = load_state_dict(Eight(), {"weight": tensor})
    np.testing.assert_array_equal(np.asarray(module.kernel[...], np.float32), tensor.float().T)
    assert state_dict(module)["weight"].dtype == torch.float8_e4m3fn


def test_all_errors_are_told_at_once_with_their_paths():
    module = net()
    tensors = numpy_state_dict(net(1))
    del tensors["out.bias"]
    tensors["extra.weight"] = np.zeros((2, 4), np.float32)
    tensors["token.weight"] = np.zeros((8, 3), np.float32)
    tensors["out.weight"] = tensors["out.weight"].astype(np.float16)
    tensors["mask"] = ~tensors["mask"]
    assert sorted(errors_of(module, tensors)) == [
        "buffer: mask differs from the constant that the module computes",
        "dtype: out.weight is float16, expected float32",
        "missing: out.bias (5)",
        "shape: token.weight is (8, 3), expected (7, 3)",
        "unexpected: extra.weight (2, 4)",
    ]
    with pytest.raises(ValueError, match=r"the state_dict does not fit Net \(5 errors\):\n  ") as caught:
        load_state_dict(module, tensors)
    assert all(error in str(caught.value) for error in caught.value.errors)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    tensors = numpy_state_dict(net(1))
    tensors["out.weight"] = tensors["out.weight"].copy()
    tensors["out.weight"][2, 1] = value
    expected = "value: out.weight holds 1 of 15 float32 values that are NaN or infinite"
    assert errors_of(net(), tensors) == [expected]


def test_without_strict_only_what_cannot_be_loaded_is_a_error():
    module, tensors = net(), numpy_state_dict(net(1))
    old = np.asarray(module.out.bias[...])
    tensors["extra"] = np.zeros(2)
    tensors["out.weight"] = np.full((5, 3), np.nan, np.float32)
    del tensors["out.bias"]
    load_state_dict(module, tensors, strict=False)
    np.testing.assert_array_equal(module.out.bias[...], old)
    np.testing.assert_array_equal(module.token.embedding[...], tensors["token.weight"])
    assert np.isnan(module.out.kernel[...]).all()
    tensors["token.weight"] = np.zeros((8, 3), np.float32)
    assert errors_of(module, tensors, strict=False) == ["shape: token.weight is (8, 3), expected (7, 3)"]


def test_without_strict_a_stack_takes_the_layers_it_is_given():
    class Stack(nnx.Module):
        stacked = ("layers",)

        def __init__(self):
            self.layers = nnx.Dict(kernel=nnx.Param(jnp.zeros((3, 2, 4))))

    module = load_state_dict(Stack(), {"layers.1.weight": np.ones((4, 2), np.float32)}, strict=False)
    np.testing.assert_array_equal(module.layers.kernel[...].sum((1, 2)), [0, 8, 0])


def test_the_tensors_that_torch_fuses_tell_their_errors_once():
    module = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0))
    tensors = numpy_state_dict(module)
    del tensors["in_proj_bias"]
    tensors["in_proj_weight"] = tensors["in_proj_weight"][:-1]
    assert sorted(errors_of(module, tensors)) == [
        "missing: in_proj_bias (18)",
        "shape: in_proj_weight is (17, 6), expected (18, 6)",
    ]


def test_a_buffer_may_differ_in_its_last_bits_and_takes_what_is_given():
    module, tensors = net(), numpy_state_dict(net())
    near = np.nextafter(tensors["waves"], np.float32(2))
    load_state_dict(module, {**tensors, "waves": near})
    np.testing.assert_array_equal(module.waves[...], near)
    for far in (near * np.float32(1 + 1e-5), np.where(near > 0.9, np.nan, near)):
        expected = "buffer: waves differs from the constant that the module computes"
        assert errors_of(net(), {**tensors, "waves": far.astype(np.float32)}) == [expected]


def test_integers_may_be_of_another_width_if_they_fit():
    class Count(nnx.Module):
        def __init__(self):
            self.table = Buffer(jnp.arange(3, dtype=jnp.int32))

    module = load_state_dict(Count(), {"table": torch.arange(3)})
    assert module.table[...].dtype == jnp.int32
    too_large = torch.tensor([0, 1, 2 + 2**32])
    assert errors_of(Count(), {"table": too_large}) == ["dtype: table is int64, expected int32"]
    assert errors_of(Count(), {"table": torch.arange(3.0)}) == ["dtype: table is float32, expected int32"]


class Tied(nnx.Module):
    def __init__(self):
        self.token = Embedding(7, 3, rngs=nnx.Rngs(0))
        self.head = nnx.Dict(embedding=self.token.embedding)


def test_tied_weights_must_agree():
    tensors = numpy_state_dict(Tied())
    assert list(tensors) == ["token.weight", "head.weight"]
    new = {key: value + 1 for key, value in tensors.items()}
    module = load_state_dict(Tied(), new)
    assert module.head.embedding is module.token.embedding
    np.testing.assert_array_equal(module.token.embedding[...], new["head.weight"])
    expected = "shared: token.weight and head.weight are one weight here, and two that differ there"
    assert errors_of(Tied(), {**tensors, "head.weight": new["head.weight"]}) == [expected]


def test_an_abstract_module_becomes_real():
    source = net(1)
    module = load_state_dict(nnx.eval_shape(lambda: net()), numpy_state_dict(source))
    assert bits(numpy_state_dict(module)) == bits(numpy_state_dict(source))
    np.testing.assert_array_equal(module.out(jnp.ones(3)), source.out(jnp.ones(3)))


def test_an_abstract_module_has_no_value_to_keep():
    tensors = numpy_state_dict(net())
    del tensors["out.bias"]
    with pytest.raises(StateDictError, match=r"missing: out\.bias \(5\)"):
        load_state_dict(nnx.eval_shape(lambda: net()), tensors, strict=False)


def test_views_and_parameters_load_and_are_not_kept():
    tensors = {key: torch.tensor(np.asarray(value)) for key, value in numpy_state_dict(net(1)).items()}
    weight = tensors["out.weight"].T.contiguous().T  # not contiguous
    assert not weight.is_contiguous()
    tensors["out.weight"] = nn.Parameter(weight)
    expected = weight.numpy().copy()
    module = load_state_dict(net(), tensors)
    with torch.no_grad():
        weight.zero_()
    np.testing.assert_array_equal(module.out.kernel[...].T, expected)
    alive = [weakref.ref(tensor) for tensor in tensors.values()]
    del tensors, weight
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


def test_numpy_memory_is_not_adopted():
    tensors = {key: np.array(value, order="C") for key, value in numpy_state_dict(net(1)).items()}
    module = load_state_dict(net(), tensors)
    before = bits(numpy_state_dict(module))
    for array in tensors.values():
        array[...] = 0
    assert bits(numpy_state_dict(module)) == before
    alive = [weakref.ref(array) for array in tensors.values()]
    del tensors, array
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


def test_a_tensor_without_data_is_a_error():
    tensors = dict(state_dict(net()))
    tensors["out.bias"] = torch.empty(5, device="meta")
    (error,) = errors_of(net(), tensors)
    assert error.startswith("unreadable: out.bias: ")


def test_what_is_no_tensor_is_a_error():
    assert errors_of(net(), {**numpy_state_dict(net()), "out.bias": "text"}) == [
        "shape: out.bias is (), expected (5)"
    ]


def test_state_dict_has_memory_of_its_own():
    module = net()
    tensors = state_dict(module)
    before = np.asarray(module.out.bias[...]).copy()
    tensors["out.bias"].zero_()
    np.testing.assert_array_equal(module.out.bias[...], before)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_values_in_16_bits_are_looked_at_too(dtype):
    name = np.dtype(dtype).name
    tensors = {**numpy_state_dict(net(dtype=name)), "out.bias": np.full(5, np.nan, dtype)}
    assert errors_of(net(dtype=name), tensors) == [
        f"value: out.bias holds 5 of 5 {name} values that are NaN or infinite"
    ]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax_attn.nn.primitives import Linear
from jax_attn.weights import load_state_dict, numpy_state_dict

module = Linear(3, 8, rngs=nnx.Rngs(0))
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
spread = NamedSharding(mesh, PartitionSpec(None, "d"))
module.kernel.set_value(jax.device_put(module.kernel[...], spread))
tensors = {key: value + 1 for key, value in numpy_state_dict(module).items()}
load_state_dict(module, tensors)
assert module.kernel[...].sharding == spread, module.kernel[...].sharding
np.testing.assert_array_equal(numpy_state_dict(module)["weight"], tensors["weight"])
"""


@pytest.mark.slow
def test_a_variable_on_several_devices_stays_there():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    run = [sys.executable, "-c", SHARDED]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
