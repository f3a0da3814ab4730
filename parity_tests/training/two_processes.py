"""One of several processes that train together; prints the losses. Arguments: those of `initialize`."""

import json
import sys

import jax
import numpy as np
import optax
from flax import nnx

from jax_attn.training import create_sharded, initialize, make_mesh, place_batch


def main(coordinator: str, num_processes: str, process_id: str) -> None:
    if int(num_processes) > 1:
        initialize(coordinator, int(num_processes), int(process_id), timeout=60)
    mesh = make_mesh("fsdp=-1")
    model = create_sharded(lambda: nnx.Linear(6, 4, rngs=nnx.Rngs(0)), mesh)
    optimizer = optax.sgd(0.1)
    graphdef, state = nnx.split(model)

    @jax.jit
    def step(state, batch):
        def loss(state):
            return jax.numpy.square(nnx.merge(graphdef, state)(batch["x"])).mean()

        value, gradients = jax.value_and_grad(loss)(state)
        return optax.apply_updates(state, optimizer.update(gradients, optimizer.init(state))[0]), value

    losses = []
    for i in range(3):
        x = np.random.default_rng(i).standard_normal((8, 6)).astype(np.float32)
        state, loss = step(state, place_batch({"x": x}, mesh))
        losses.append(float(loss))
    print(json.dumps([jax.process_count(), jax.device_count(), losses]))


if __name__ == "__main__":
    main(*sys.argv[1:])
