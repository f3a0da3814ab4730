"""What accelerators can do at most, by the vendors' own figures; and what this CPU does, measured.

Peaks are of dense products. "float32" is what JAX computes a float32 product in by default: bfloat16 on TPUs, TF32
on NVIDIA's. A TPU v7x chip is two devices to JAX: its figures are halved.
"""

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device, as JAX counts devices.

    Attributes:
        name: what people call it.
        device_kinds: beginnings of what JAX calls it (`jax.devices()[0].device_kind`).
        bfloat16, float32: the most FLOP/s of products in this dtype.
        memory: bytes that a program may use; None where that is not known.
        memory_bandwidth: bytes/s.
        link: bytes/s that one link to a neighbour sends; None is no network.
        island: how many devices reach each other through these links; None is all.
        network: bytes/s that a device sends beyond its island.
        torus: whether the links are those of a torus, two for each of its axes; else there is one, to a switch.
    """

    name: str
    device_kinds: tuple[str, ...]
    bfloat16: float
    float32: float
    memory: float | None = None
    memory_bandwidth: float | None = None
    link: float | None = None
    island: int | None = None
    network: float | None = None
    torus: bool = False

    def peak(self, dtype: Any = "bfloat16") -> float:
        """FLOP/s of products of this dtype."""
        return self.bfloat16 if jnp.dtype(dtype).itemsize <= 2 else self.float32


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}: peak compute, HBM bandwidth, inter-chip interconnect (ICI). Of
# that a link has a quarter (2D torus) or a sixth (3D); half of what is told as bidirectional is one way. The memory
# is what libtpu 0.0.42's compiler lets a program use, a little less than the chip has.
TPUS = (
    Chip("v4", ("TPU v4",), 275e12, 275e12, 31.25 * GIB, 1200e9, 50e9, torus=True),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 197e12, 15.75 * GIB, 819e9, 50e9, torus=True),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 459e12, 95.74 * GIB, 2765e9, 100e9, torus=True),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 918e12, 31.25 * GIB, 1600e9, 100e9, torus=True),
    Chip("tpu7x", ("TPU7x", "TPU v7x"), 1153.5e12, 1153.5e12, 94.75 * GIB, 3690e9, 50e9, torus=True),
)
# nvidia.com: data sheets of the SXM modules, without sparsity; NVLink one way. Beyond a machine of eight: the
# network adapters of the DGX of that generation, one for each GPU.
GPUS = (
    Chip("a100-40gb", ("NVIDIA A100-SXM4-40GB",), 312e12, 156e12, 40e9, 1555e9, 300e9, 8, 25e9),
    Chip("a100", ("NVIDIA A100",), 312e12, 156e12, 80e9, 2039e9, 300e9, 8, 25e9),
    Chip("h100", ("NVIDIA H100", "NVIDIA GH200"), 989e12, 494.5e12, 80e9, 3350e9, 450e9, 8, 50e9),
    Chip("h200", ("NVIDIA H200",), 989e12, 494.5e12, 141e9, 4800e9, 450e9, 8, 50e9),
    Chip("b200", ("NVIDIA B200", "NVIDIA GB200"), 2250e12, 1125e12, 180e9, 8000e9, 900e9, 8, 50e9),
)
CHIPS = {chip.name: chip for chip in (*TPUS, *GPUS)}


def chip_of(device: Any = None) -> Chip | None:
    """Return what a device is; None where it is none of the table.

    Args:
        device: of `jax.devices()`, or its `device_kind`; None is the first there is. A CPU is measured, once.
    """
    device = jax.devices()[0] if device is None else device
    kind = device if isinstance(device, str) else device.device_kind
    if kind == "cpu" or getattr(device, "platform", "") == "cpu":
        return this_cpu()
    found = [
        (len(start), chip)
        for chip in CHIPS.values()
        for start in chip.device_kinds
        if kind.lower().startswith(start.lower())
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


@cache
def this_cpu(size: int = 1024, seconds: float = 0.3) -> Chip:
    """Return this machine's CPU: the best of some products of `size` x `size`, in the cores that JAX takes."""
    cpu = jax.local_devices(backend="cpu")[0]

    def measured(dtype: Any) -> float:
        x = jax.device_put(jnp.ones((size, size), dtype), cpu)
        product = jax.jit(jnp.matmul)
        product(x, x).block_until_ready()
        best, started = float("inf"), time.perf_counter()
        while time.perf_counter() - started < seconds:
            before = time.perf_counter()
            product(x, x).block_until_ready()
            best = min(best, time.perf_counter() - before)
        return 2 * size**3 / best

    memory = (
        float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else None
    )
    return Chip("cpu", ("cpu",), measured(jnp.bfloat16), measured(jnp.float32), memory)
