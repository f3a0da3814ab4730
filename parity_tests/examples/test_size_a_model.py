"""The example's models have the parameters that it says, and its steps can be traced."""

import jax
import pytest
import size_a_model as example
from jax.sharding import AbstractMesh, AxisType

from jax_attn.functional.logical_axes import MESH_AXES
from jax_attn.training.sizing.memory import given_bytes
from jax_attn.training.sizing.step import Description, abstract_step

MESH = AbstractMesh((1, 256, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def test_a_decoder_of_1_3_billion_parameters():
    step = abstract_step(Description.of(example.step()), MESH)
    width, layers = (example.LLAMA[name] for name in ("hidden_size", "num_hidden_layers"))
    layer = 4 * width**2 + 3 * width * example.LLAMA["intermediate_size"] + 2 * width
    assert step.parameters == layers * layer + 2 * example.LLAMA["vocab_size"] * width + width
    assert step.tokens == 256 * 2048
    # All but the norms is cut into 256 parts.
    norms = (2 * layers + 1) * width
    assert given_bytes(step)["parameters"] == 4 * ((step.parameters - norms) // 256 + norms)


@pytest.mark.parametrize(("name", "tokens"), [("plain", 512), ("long_context", 2**17)])
def test_the_other_steps(name, tokens, monkeypatch):
    monkeypatch.setitem(example.LLAMA, "num_hidden_layers", 1)
    step = abstract_step(Description.of(getattr(example, name)()), MESH, 3)
    assert step.tokens == 3 * tokens
    if name == "plain":  # a ring wants its mesh
        jax.eval_shape(step.update, step.state, step.batch)
