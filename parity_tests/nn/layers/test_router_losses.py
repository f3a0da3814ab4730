import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jax_attn.models.part import Part
from jax_attn.nn import capture_router_losses, router_loss
from jax_attn.training import Task
from jax_attn.training.trainer import Trainer
from jax_attn.weights.state_dict import state_dict
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from torch_ref.nn import capture_router_losses as captured_in_torch

EXPERTS = Part(
    "nn.layers.mixture_of_experts:MixtureOfExperts",
    embed_dim=8,
    hidden_dim=7,
    num_experts=3,
    capacity_factor=0.7,
    implementation="masked",
)
LAYER = Part(
    "nn.layers.encoder_layer:EncoderLayer", embed_dim=8, num_heads=2, feed_forward=EXPERTS, dropout=0.3
)
PLAIN = Part("nn.layers.encoder_layer:EncoderLayer", embed_dim=8, num_heads=2, hidden_dim=7)
MASK = jnp.arange(5) >= jnp.array([[0], [2], [5]])


def stack(layers=(LAYER, LAYER), dtype=jnp.float64, **options):
    part = Part("nn.layers.stack:Stack", layers=list(layers), **options)
    return part.build("jax_attn", rngs=nnx.Rngs(0), param_dtype=dtype), part


@jax.enable_x64(True)
def test_they_are_those_of_the_tokens_that_are_no_padding():
    """Beside torch's, and by hand; of a stack in which not every layer has experts."""
    flax, part = stack((LAYER, PLAIN, LAYER))
    twin = part.build("torch_ref").double().eval()
    twin.load_state_dict(state_dict(flax))
    flax.eval()

    @compiled
    def run(x):
        output, losses = capture_router_losses(flax)(x, MASK)
        layer = flax.layers[0]
        after = layer.attention_norm(x + layer.attention(x, mask=MASK))
        _, by_hand = layer.feed_forward(after, MASK, return_losses=True)
        return output, losses, flax(x, MASK), (by_hand,)

    x = draw(3, 5, 8)
    output, losses, plain, by_hand = run(x)
    assert_same(output, plain)
    jax.tree.map(assert_same, losses["layers.0.feed_forward"], by_hand)
    _, of_torch = captured_in_torch(twin)(*(torch.tensor(np.asarray(a)) for a in (x, MASK)))
    assert losses.keys() == of_torch.keys() == {"layers.0.feed_forward", "layers.2.feed_forward"}
    for path, ((load_balance, z),) in of_torch.items():
        assert_same(losses[path][0].load_balance, load_balance.detach())
        assert_same(losses[path][0].z, z.detach())


@pytest.mark.slow
@jax.enable_x64(True)
def test_a_loop_over_layers_has_the_losses_of_each_and_their_gradients():
    """The same program in both graph modes, of a model that is merged inside `jax.grad`, as in a training."""
    x, options = draw(3, 5, 8), {"scan": True, "remat": True}

    def losses(module):
        module.eval()
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)

        def loss(params, x):
            return router_loss(capture_router_losses(nnx.merge(graphdef, params, rest))(x, MASK)[1])

        return jax.value_and_grad(loss), params

    listed, looped = (losses(stack(repeats=2, **more)[0]) for more in ({}, options))
    expected, by_layer = compiled(listed[0])(listed[1], x)
    programs = []
    for mode in (True, False):
        with nnx.set_graph_mode(mode):
            programs.append(str(jax.make_jaxpr(looped[0])(looped[1], x)))
    assert programs[0] == programs[1]
    found, gradients = compiled(looped[0])(looped[1], x)
    assert_same(found, expected)
    kernels = [layer["feed_forward"]["router"]["kernel"][...] for layer in by_layer["layers"].values()]
    assert_same(gradients["layers"]["feed_forward"]["router"]["kernel"][...], np.stack(kernels))
    assert all(abs(kernel).max() > 1e-4 for kernel in kernels)


def test_a_training_goes_on_drawing_dropout():
    """Two steps that change no weight have other masks."""

    def loss(model, batch):
        output, losses = capture_router_losses(model)(batch["x"])
        return jnp.sum(output[..., 0]) + router_loss(losses), 15

    trainer = Trainer(stack([LAYER], dtype=jnp.float32)[0], optax.sgd(0.0), Task(stack, loss))
    batch = {"x": np.asarray(draw(3, 5, 8), np.float32)}
    first, second = (float(trainer.step(batch).loss) for _ in range(2))
    assert abs(first - second) > 1e-3
