"""A module beside one that nobody here wrote, in float64: output and gradients, with the weights carried across."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.places import Places
from jax_attn.weights.state_dict import load_state_dict, state_dict
from parity_tests.from_scratch.properties import assert_same, compiled

Tensors = Mapping[str, torch.Tensor]


def assert_equals_reference(
    module: nnx.Module,
    reference: torch.nn.Module,
    carry: Callable[[Tensors], Tensors],
    x: jax.Array,
    call: Callable[..., torch.Tensor],
    **options: Any,
) -> None:
    """The two agree on `x`, and in the gradients of `x` and of every parameter of the reference.

    Args:
        module: ours, which gets the weights.
        reference: theirs, in float64; what it casts to float32 stays float64 here.
        carry: from their tensors by name to those that `load_state_dict` takes; weights and gradients go that way.
        x: the input.
        call: `call(reference, tensor)`, their output.
        options: keyword arguments of our call.
    """
    parameters = dict(reference.named_parameters())
    for parameter in parameters.values():  # zeros and ones would hide where they go
        torch.nn.init.normal_(parameter, std=0.4)
    load_state_dict(module, carry({name: parameter.detach() for name, parameter in parameters.items()}))
    graphdef, weights, rest = nnx.split(module, nnx.Param, ...)
    cotangent = np.random.default_rng(9)

    tensor = torch.tensor(np.asarray(x), requires_grad=True)
    with lifted_torch(Places()):
        expected = call(reference, tensor)
        cotangents = cotangent.standard_normal(expected.shape)
        expected.backward(torch.from_numpy(cotangents))

    @compiled
    def run(weights, x):
        output, pull = jax.vjp(
            lambda weights, x: nnx.merge(graphdef, weights, rest)(x, **options), weights, x
        )
        return output, *pull(cotangents)

    output, of_weights, of_x = run(weights, x)
    assert_same(output, expected.detach())
    assert_same(of_x, tensor.grad)
    ours = state_dict(nnx.merge(graphdef, of_weights, rest))
    theirs = carry({name: parameter.grad for name, parameter in parameters.items()})
    assert set(theirs) == set(ours)
    for name, gradient in theirs.items():
        assert_same(ours[name], gradient)
