"""Every parameter says what its axes mean, and lies on a mesh accordingly."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jax_attn.catalogue import CATALOGUE
from jax_attn.functional.logical_axes import MESH_AXES, RULES
from jax_attn.nn import Decoder, EncoderLayer, MultiHeadAttention
from jax_attn.training import logical_axes_of, parameter_shardings, shardings_like

ROWS = [name for name, twin in CATALOGUE.items() if not twin.where.startswith("from_scratch")]


def mesh_of(**sizes: int) -> Mesh:
    """A mesh without devices."""
    shape = tuple(sizes.get(name, 1) for name in MESH_AXES)
    return AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def specs(tree) -> dict[str, PartitionSpec]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, NamedSharding))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.spec for path, leaf in leaves}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    build = lambda: Decoder(3, 8, 4, 12, scan=True, rngs=nnx.Rngs(0))  # noqa: E731
    return nnx.eval_shape(build)


@pytest.mark.parametrize("where", sorted({CATALOGUE[name].where for name in ROWS}))
def test_every_parameter_names_its_axes(where):
    rows = [CATALOGUE[name] for name in ROWS if CATALOGUE[name].where == where]
    for twin in rows:
        module = nnx.eval_shape(twin.flax)
        axes = logical_axes_of(module)
        for path, parameter in nnx.to_flat_state(nnx.state(module, nnx.Param)):
            names, _ = axes[tuple(map(str, path))]
            assert names is not None, f"{twin.name}: {path}"
            assert len(names) == len(parameter.shape), f"{twin.name}: {path}"
            assert {name for name in names if name is not None} <= RULES.keys()
            stacked = any(isinstance(node, nnx.Module) and getattr(node, "stacked", ()) for node in [module])
            assert not stacked or path[0] != "layers" or names[0] == "layers"


def test_a_table_tells_where_each_name_goes(decoder):
    found = specs(parameter_shardings(decoder, mesh_of(data=2, fsdp=4, tensor=2)))
    layer = "layers.attention"
    assert found[f"{layer}.q_proj.kernel.value"] == PartitionSpec(None, "fsdp", "tensor")
    assert found[f"{layer}.q_proj.bias.value"] == PartitionSpec(None, "tensor")
    assert found[f"{layer}.out_proj.kernel.value"] == PartitionSpec(None, "tensor", "fsdp")
    assert found["layers.feed_forward.up.kernel.value"] == PartitionSpec(None, "fsdp", "tensor")
    assert found["layers.attention_norm.scale.value"] == PartitionSpec(None, None)
    other = {**RULES, "embed": None, "layers": "data"}
    found = specs(parameter_shardings(decoder, mesh_of(data=3, tensor=2), other))
    assert found[f"{layer}.q_proj.kernel.value"] == PartitionSpec("data", None, "tensor")


@pytest.mark.parametrize(
    ("fsdp", "tensor", "down", "out_proj"),
    [
        (4, 1, (None, "fsdp", None), (None, "fsdp", None)),
        (2, 2, (None, ("tensor", "fsdp"), None), (None, ("tensor", "fsdp"), None)),
        (8, 1, (None, None, "fsdp"), (None, None, "fsdp")),  # of 12 rows, and of 4 heads
    ],
)
def test_kernels_that_lead_back_are_cut_by_rows_where_they_divide(decoder, fsdp, tensor, down, out_proj):
    found = specs(parameter_shardings(decoder, mesh_of(fsdp=fsdp, tensor=tensor)))
    assert found["layers.feed_forward.down.kernel.value"] == PartitionSpec(*down)
    assert found["layers.attention.out_proj.kernel.value"] == PartitionSpec(*out_proj)


def test_what_does_not_divide_stays_whole_and_a_head_is_never_cut():
    attention = nnx.eval_shape(lambda: MultiHeadAttention(8, 4, num_kv_heads=1, rngs=nnx.Rngs(0)))
    found = specs(parameter_shardings(attention, mesh_of(fsdp=3, tensor=2)))
    assert found["q_proj.kernel.value"] == PartitionSpec(None, "tensor")
    assert found["k_proj.kernel.value"] == PartitionSpec(None, None)  # 2 columns, but of one head
    found = specs(parameter_shardings(attention, mesh_of(tensor=8)))
    assert found["q_proj.kernel.value"] == PartitionSpec(None, None)


def test_an_optimizer_and_an_average_lie_as_the_parameters(decoder):
    mesh = mesh_of(fsdp=4, tensor=2)
    parameters = nnx.state(decoder, nnx.Param)
    want = specs(parameter_shardings(decoder, mesh))
    tree = {"ema": parameters, "optimizer": jax.eval_shape(optax.adamw(1e-3).init, parameters)}
    found = specs(shardings_like(tree, decoder, mesh))
    for name, spec in found.items():
        ends = [like for path, like in want.items() if name.endswith(f".{path}")]
        assert spec == (ends[0] if ends else PartitionSpec()), name
    assert sum(spec == PartitionSpec(None, "fsdp", "tensor") for spec in found.values()) == 3 * 4
    both = nnx.eval_shape(lambda: nnx.Optimizer(decoder, optax.adam(1e-3), wrt=nnx.Param))
    state = specs(shardings_like(nnx.state((decoder, both)), decoder, mesh))
    assert sum(spec == PartitionSpec(None, "fsdp", "tensor") for spec in state.values()) == 3 * 4


class Users(nnx.Module):
    """A module that is not ours."""

    def __init__(self, rngs: nnx.Rngs):
        noted = nnx.with_partitioning(jax.nn.initializers.ones, ("mlp", "data"), eager_sharding=False)
        self.noted = nnx.Linear(4, 6, kernel_init=noted, rngs=rngs)
        self.plain = nnx.Linear(4, 6, rngs=rngs)
        self.count = nnx.Variable(jnp.zeros(8))
        self.ours = nnx.List([EncoderLayer(8, 2, 4, rngs=rngs)])


def test_modules_of_others():
    module = nnx.eval_shape(lambda: Users(nnx.Rngs(0)))
    found = specs(parameter_shardings(module, mesh_of(data=2, fsdp=2, tensor=2)))
    assert found["noted.kernel.value"] == PartitionSpec("tensor", "data")
    assert found["plain.kernel.value"] == PartitionSpec(None, "fsdp")
    assert found["plain.bias.value"] == PartitionSpec("fsdp")
    assert found["count.value"] == PartitionSpec(None)
    assert found["ours.0.attention.q_proj.kernel.value"] == PartitionSpec("fsdp", "tensor")
