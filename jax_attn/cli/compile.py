"""`jax-attn compile`: does a training step fit, and what does it take, on devices that are not there?"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from jax_attn.cli.files import require_outputs

Dtype = Literal["bfloat16", "float16", "float32"]


def compile_(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py[:function]")],
    /,
    topology: Annotated[str, tyro.conf.arg(metavar="KIND:SIZE")],
    mesh: Annotated[str | None, tyro.conf.arg(metavar="AXIS=N,...")] = None,
    batch: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None,
    remat: bool = False,
    dtype: Dtype | None = None,
    search: bool = False,
    tries: int = 8,
    depth: int = 6,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> int:
    """Compile a training step for devices that are not there: does it fit, and what does it take?

    FILE.py has a function, by default `step`, that returns what a step is made of. The model may be any Flax NNX
    module, the optimizer any of optax; no array is made.

        import jax, jax.numpy as jnp, optax
        from flax import nnx

        def step():
            def loss(model, batch):                      # the mean loss, or a tuple of (sum, how many)
                logits = model(batch["ids"][:, :-1])
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["ids"][:, 1:])
                return losses.sum(), losses.size

            return {
                "model": lambda: MyModel(rngs=nnx.Rngs(0)),                   # traced: nothing is drawn
                "optimizer": optax.adamw(1e-3),
                "inputs": lambda rows: {"ids": jnp.zeros((rows, 2049), jnp.int32)},    # or a batch itself
                "loss": loss,
            }

    It may also return `accumulate`, `max_grad_norm` and `ema`, as `jax_attn.training.Trainer` takes them. If it
    takes arguments called `dtype` or `remat`, it gets those that are given here.

        jax-attn compile model.py --topology v5e:16x16 --mesh fsdp=256
        jax-attn compile model.py --topology v5p:4x4x4 --mesh fsdp=16,tensor=4 --batch 256 --dtype bfloat16
        jax-attn compile model.py --topology h100:8 --json h100.json
        jax-attn compile model.py --topology v5e:4x4 --search

    Topologies are those of TPUs, v4, v5e, v5p, v6e and tpu7x, compiled by the TPU's own compiler (pip install
    libtpu); GPUs, a100, h100, h200 and b200, for which the program is lowered and memory is an estimate; and
    cpu:N, N simulated devices. First comes what a device holds, then the FLOPs by module (loops counted as often
    as they run), what the devices send to each other, and how long a step takes at least.

    The exit status is 0 if it fits, 1 if it does not, and 2 if something is wrong with what was given.

    Args:
        file: the Python file, and the function in it.
        topology: the devices, as v5e:16x16, v5p:4x4x4, h100:8.
        mesh: how they share the work, as fsdp=256 or data=4,fsdp=32,tensor=2; axes are data, fsdp, tensor and
            context, -1 is what is left. By default fsdp alone.
        batch: rows of a batch, on all devices together; by default those of `inputs`, or one for each device among
            which the mesh deals it out.
        remat: compute layers again in the backward pass, in place of keeping what is inside them.
        dtype: what modules compute in that have a dtype; by default as they are.
        search: try meshes, batches and remat, and rank what fits by tokens a second. What is given here is kept.
        tries: how many the search compiles at most.
        depth: how many parts of a module's path are told apart in the list of FLOPs.
        json: write everything that was found to this file.
    """
    source = Path(file if Path(file).exists() else file.rpartition(":")[0])
    require_outputs({"--json": json}, [source])
    for name, value in (("--batch", batch), ("--tries", tries), ("--depth", depth)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    from jax_attn.cli.compiling import (
        Request,
        run,
    )  # it takes what training takes, which not all have installed

    return run(
        Request(file, topology, mesh, batch, remat, dtype), search=search, tries=tries, depth=depth, json=json
    )
