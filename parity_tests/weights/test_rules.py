"""Where NNX variables live in a torch state_dict: the generic rule, and each of its exceptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jax_attn.nn.primitives import Buffer, Embedding, LayerNorm, Linear
from jax_attn.weights import load_state_dict, numpy_state_dict, slots
from parity_tests.contract import assert_close


class Everything(nnx.Module):
    """One of each kind of child."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale_of_all = nnx.Param(jnp.arange(6.0).reshape(2, 3))
        self.table = Buffer(jnp.arange(3))
        self.linear = Linear(2, 3, rngs=rngs)
        self.norm = LayerNorm(5, rngs=rngs)
        self.embedding = Embedding(7, 5, rngs=rngs)
        self.blocks = nnx.List([Linear(2, 3, bias=False, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)])
        self.by_name = nnx.Dict(first=Linear(5, 2, rngs=rngs))
        self.nothing = None


class TorchEverything(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale_of_all = nn.Parameter(torch.zeros(2, 3))
        self.register_buffer("table", torch.arange(3))
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(5)
        self.embedding = nn.Embedding(7, 5)
        self.blocks = nn.ModuleList([nn.Linear(2, 3, bias=False), nn.Dropout(0.1)])
        self.by_name = nn.ModuleDict({"first": nn.Linear(5, 2)})


def shapes(state_dict) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def test_the_generic_rule_gives_torchs_keys_and_shapes():
    assert shapes(numpy_state_dict(Everything(nnx.Rngs(0)))) == shapes(TorchEverything().state_dict())


def test_a_kernel_is_transposed_and_nothing_else_is():
    module = Everything(nnx.Rngs(0))
    tensors = numpy_state_dict(module)
    np.testing.assert_array_equal(tensors["linear.weight"], module.linear.kernel[...].T)
    np.testing.assert_array_equal(tensors["scale_of_all"], module.scale_of_all[...])
    np.testing.assert_array_equal(tensors["embedding.weight"], module.embedding.embedding[...])


def test_paths_are_those_of_flax():
    paths = {slot.path for slot in slots(Everything(nnx.Rngs(0)))}
    assert paths >= {"linear.kernel", "blocks.0.kernel", "by_name.first.bias", "norm.scale", "table"}
    assert not any("rngs" in path for path in paths)


PAIRS = {
    "sequential": (
        lambda r: nnx.Sequential(nnx.Linear(3, 5, rngs=r), nnx.relu, nnx.Linear(5, 2, rngs=r)),
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)),
        (7, 3),
    ),
    "convolution": (
        lambda r: nnx.Conv(4, 6, (3, 5), padding="VALID", feature_group_count=2, rngs=r),
        lambda: nn.Conv2d(4, 6, (3, 5), groups=2),
        (2, 8, 9, 4),
    ),
    "batch norm": (
        lambda r: nnx.BatchNorm(5, epsilon=1e-5, use_running_average=True, rngs=r),
        lambda: nn.BatchNorm1d(5).eval(),
        (7, 5),
    ),
    "attention": (
        lambda r: nnx.MultiHeadAttention(2, 6, decode=False, use_bias=True, rngs=r),
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        (2, 3, 6),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_exceptions_carry_torchs_weights(name):
    flax, torch_module, shape = PAIRS[name]
    flax, torch_module = flax(nnx.Rngs(0)), torch_module()
    with torch.no_grad():
        for tensor in torch_module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    load_state_dict(flax, torch_module.state_dict())
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = torch.from_numpy(x)
    with torch.no_grad():
        if name == "convolution":
            expected = torch_module(y.movedim(-1, 1)).movedim(1, -1)
        elif name == "attention":
            expected = torch_module(y, y, y)[0]
        else:
            expected = torch_module(y)
    assert_close([flax(x)], [expected])
    back = numpy_state_dict(flax)
    for key, tensor in torch_module.state_dict().items():
        if key != "num_batches_tracked":
            np.testing.assert_array_equal(back[key], tensor)


class Stack(nnx.Module):
    stacked = ("layers",)

    def __init__(self, count: int, rngs: nnx.Rngs):
        one = nnx.vmap(lambda r: Linear(3, 5, rngs=r), in_axes=0, out_axes=0)
        self.layers = one(rngs.split(count))


class StackOfStacks(nnx.Module):
    stacked = ("layers",)

    def __init__(self, rngs: nnx.Rngs):
        self.layers = Stack(2, rngs)


def test_a_stack_lives_layer_by_layer():
    module = Stack(4, nnx.Rngs(0))
    tensors = numpy_state_dict(module)
    assert shapes(tensors) == {
        f"layers.{i}.{leaf}": shape for leaf, shape in (("weight", (5, 3)), ("bias", (5,))) for i in range(4)
    }
    np.testing.assert_array_equal(tensors["layers.2.weight"], module.layers.kernel[2].T)
    other = load_state_dict(Stack(4, nnx.Rngs(1)), tensors)
    np.testing.assert_array_equal(other.layers.kernel[...], module.layers.kernel[...])


def test_a_stack_within_a_stack_is_refused():
    with pytest.raises(ValueError, match=r"StackOfStacks\.layers\.layers\.\w+ is stacked twice"):
        slots(StackOfStacks(nnx.Rngs(0)))


def test_names_turn_our_keys_into_those_of_a_port():
    module = Everything(nnx.Rngs(0))
    keys = numpy_state_dict(module, names=[(r"^blocks\.(\d+)\.", r"h.\1."), (r"^", "model.")])
    assert "model.h.0.weight" in keys
    assert "model.linear.weight" in keys


def test_names_that_collide_are_refused():
    both = r"linear\.\w+ and by_name\.first\.\w+ have the same torch key, x\.\w+"
    with pytest.raises(ValueError, match=both):
        slots(Everything(nnx.Rngs(0)), [(r"^(linear|by_name\.first)", "x")])


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_pass_as_weights_do(name):
    # Linear maps: to_torch(a + b) = to_torch(a) + to_torch(b), and to_flax undoes it.
    for slot in slots(PAIRS[name][0](nnx.Rngs(0))):
        a, b = (np.random.default_rng(seed).random(slot.variable.shape) for seed in range(2))
        for whole, one, other in zip(slot.to_torch(a + b), slot.to_torch(a), slot.to_torch(b), strict=True):
            np.testing.assert_array_equal(whole, one + other)
        np.testing.assert_array_equal(slot.to_flax(slot.to_torch(a)), a)


def test_abstract_modules_have_the_same_slots():
    def described(table):
        return {(slot.path, slot.places, slot.torch_shape, slot.dtype) for slot in table}

    abstract = slots(nnx.eval_shape(lambda: Everything(nnx.Rngs(0))))
    assert described(abstract) == described(slots(Everything(nnx.Rngs(0))))
    assert isinstance(abstract[0].variable.get_value(), jax.ShapeDtypeStruct)
