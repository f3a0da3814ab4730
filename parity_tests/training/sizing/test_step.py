"""A step without arrays: what it takes, how that lies on a mesh, and whether it fits."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from jax_attn.functional.logical_axes import MESH_AXES
from jax_attn.models import Part
from jax_attn.nn import EncoderLayer, Stack
from jax_attn.training.sizing.chips import CHIPS
from jax_attn.training.sizing.memory import exhausted, given_bytes
from jax_attn.training.sizing.step import Description, abstract_step

WIDTH, HIDDEN = 6, 22


class Model(nnx.Module):
    """Not ours."""

    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, 1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down(self.dropout(nnx.relu(self.up(x))))


def loss(model, batch):
    return ((model(batch["x"])[:, 0] - batch["y"]) ** 2).mean()


def described(**changes):
    given = {
        "model": lambda: Model(nnx.Rngs(0)),
        "optimizer": optax.adam(1e-3),
        "inputs": lambda rows: {"x": jnp.zeros((rows, WIDTH)), "y": jnp.zeros(rows)},
        "loss": loss,
    }
    return Description.of(given | changes)


def mesh(**sizes):
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    return AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def test_what_each_device_holds():
    """The kernels are cut in two, the bias too; Adam has two numbers for each parameter, and a count."""
    step = abstract_step(described(), mesh(fsdp=2), 10)
    given = given_bytes(step)
    parameters = WIDTH * HIDDEN + HIDDEN + HIDDEN
    assert step.parameters == parameters
    assert given["parameters"] == 4 * parameters // 2
    assert given["optimizer"] == 2 * given["parameters"] + 4
    assert given["batch"] == 4 * 10 * (WIDTH + 1) // 2
    assert (step.rows, step.tokens) == (10, 10)
    whole = given_bytes(abstract_step(described(ema=0.9), mesh(data=2), 10))
    assert whole["parameters"] == whole["moving average"] == 4 * parameters
    assert whole["batch"] == given["batch"]


def test_a_batch_that_the_mesh_does_not_divide_is_whole_everywhere():
    assert given_bytes(abstract_step(described(), mesh(fsdp=2), 7))["batch"] == 4 * 7 * (WIDTH + 1)


def test_rows_by_default():
    assert abstract_step(described(), mesh(data=2, fsdp=4)).rows == 8
    batch = {"x": jax.ShapeDtypeStruct((12, WIDTH), "float32"), "y": jax.ShapeDtypeStruct((12,), "float32")}
    assert abstract_step(described(inputs=batch), mesh(fsdp=4)).rows == 12
    assert abstract_step(described(inputs=batch), mesh(fsdp=4), 20).rows == 20


def test_tokens_are_those_of_ids():
    inputs = {"x": jnp.zeros((4, WIDTH)), "y": jnp.zeros(4), "ids": jnp.zeros((4, 13), jnp.int32)}
    assert abstract_step(described(inputs=inputs), mesh()).tokens == 52


@pytest.mark.parametrize(
    "model", [Model(nnx.Rngs(0)), lambda: Model(nnx.Rngs(0))], ids=["a module", "a function"]
)
def test_a_model_may_be_there_or_made(model):
    step = abstract_step(described(model=model), mesh(), 4)
    new, report = jax.eval_shape(step.update, step.state, step.batch)
    assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, step.state)
    assert report.loss.shape == ()


def test_dtype_and_remat_reach_the_layers():
    layer = Part(EncoderLayer, embed_dim=WIDTH, num_heads=2, hidden_dim=HIDDEN)

    inputs = lambda rows: {"x": jnp.zeros((rows, 3, WIDTH))}  # noqa: E731
    model = Part(Stack, layers=[layer, layer], scan=True)
    both = described(model=model, inputs=inputs, loss=lambda m, b: m(b["x"]).astype("float32").sum())
    plain = abstract_step(both, mesh(), 2)
    other = abstract_step(both, mesh(), 2, "bfloat16", True)
    text = str(jax.make_jaxpr(other.update)(other.state, other.batch))
    before = str(jax.make_jaxpr(plain.update)(plain.state, plain.batch))
    assert "remat" in text
    assert "remat" not in before
    assert "bf16" in text
    assert "bf16" not in before


def test_remat_of_what_has_no_stack_is_refused():
    with pytest.raises(ValueError, match="this has neither"):
        abstract_step(described(), mesh(), remat=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "expected a dict with model, optimizer, inputs, loss, got int"),
        ({"model": Model, "optimizer": 1}, "returned no 'inputs' and no 'loss'"),
        ({"model": Model, "optimizer": 1, "inputs": 1, "loss": loss, "looss": 1}, "'looss' is none of model"),
        ({"model": Model, "optimizer": 1, "inputs": 1, "loss": 0.5}, "loss must be a function"),
        ({"model": 5, "optimizer": 1, "inputs": 1, "loss": loss}, "model must be an nnx.Module"),
    ],
)
def test_what_is_no_description_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        Description.of(value)


@pytest.mark.parametrize(
    ("message", "needed", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.",
            21.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(608.00G) exceeds available HBM (15.25G).",
            608,
            15.25,
        ),
    ],
)
def test_running_out_of_memory_is_an_answer(message, needed, limit):
    memory = exhausted(abstract_step(described(), mesh(), 4), message, CHIPS["v5e"].memory)
    assert (memory.total, memory.limit) == (needed * 2**30, limit * 2**30)
    assert not memory.fits


def test_other_errors_are_none():
    assert exhausted(abstract_step(described(), mesh(), 4), "INTERNAL: what a pity", None) is None
