"""What a step is compiled for: a TPU topology, GPUs, or CPU devices, none of which has to be there.

TPUs: the real compiler, which comes with libtpu. GPUs: JAX has no compiler for them without one, so the program is
lowered for CUDA, and what is told of memory and collectives is of the same program compiled by XLA for as many
simulated CPU devices: an estimate.
"""

import math
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from jax_attn.training.sizing.chips import CHIPS, GPUS, TPUS, Chip, this_cpu

EXAMPLES = "v5e:16x16, v5p:4x4x4, h100:8, cpu:8"
_NAMES = {"cuda": "h100", "gpu": "h100", "v5litepod": "v5e", "v7x": "tpu7x"}
# No TPU is looked for, and several processes may compile at once.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CHECKOUT = Path(".cache/libtpu/libtpu/libtpu.so")  # where `make tpu-compiler` puts it


@dataclass(frozen=True)
class Target:
    """Devices, and what each can do.

    Attributes:
        name: as it was asked for.
        platform: "tpu", "cuda" or "cpu".
        devices: to compile for: of a topology, or simulated.
        chip: one of them.
        shape: chips along each axis of the network.
    """

    name: str
    platform: str
    devices: Sequence[Any]
    chip: Chip
    shape: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether the program is compiled for the devices themselves."""
        return self.platform != "cuda"


def target(name: str) -> Target:
    """Return what `v5e:16x16`, `h100:64` or `cpu:8` names.

    Call it before anything has computed with JAX: then no other devices are looked for.

    Raises:
        ValueError: it is no such name; the topology does not exist; libtpu is not installed; or JAX has set up its
            devices already and has too few.
    """
    kind, size = _parsed(name)
    shape = tuple(int(side) for side in size.split("x"))
    if kind in {chip.name for chip in TPUS}:
        return Target(name, "tpu", _topology(kind, shape, name), CHIPS[kind], shape)
    devices = _simulated(math.prod(shape))
    if kind == "cpu":
        return Target(name, "cpu", devices, this_cpu(), shape)
    return Target(name, "cuda", devices, CHIPS[kind], shape)


def _parsed(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z0-9\-]+?)[:=](\d+(?:x\d+)*)", name.strip())
    known = [*(chip.name for chip in (*TPUS, *GPUS)), "cpu"]
    kind = _NAMES.get(found.group(1).lower(), found.group(1).lower()) if found else ""
    if found is None or kind not in known or 0 in map(int, found.group(2).split("x")):
        raise ValueError(
            f"--topology must be KIND:SIZE, as in {EXAMPLES}, with a KIND of {', '.join(known)}; got {name!r}"
        )
    return kind, found.group(2)


def _topology(kind: str, shape: tuple[int, ...], name: str) -> Sequence[Any]:
    """The devices of a TPU topology, by libtpu."""
    from jax.experimental import topologies

    prepare_libtpu()
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if math.prod(shape) < 4:  # less than a host has
        options["chips_per_host_bounds"] = (*shape, *(1,) * (3 - len(shape)))
    layout = f"{kind}:{'x'.join(map(str, shape))}"
    try:
        with _silent():
            return topologies.get_topology_desc(platform="tpu", topology_name=layout, **options).devices
    except Exception as error:
        raise ValueError(f"there is no TPU topology {name}: {' '.join(str(error).split())}") from error


@contextmanager
def _silent() -> Generator[None]:
    """Within it libtpu, which writes past Python, cannot complain that it is on no TPU."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def prepare_libtpu() -> None:
    """Let JAX find the compiler for TPUs, and no TPU.

    Raises:
        ValueError: it is not installed; with the command that installs it.
    """
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    if os.environ.get("TPU_LIBRARY_PATH") or find_spec("libtpu"):
        return
    for folder in (Path.cwd(), Path(__file__).parents[3]):
        if (folder / _CHECKOUT).is_file():
            os.environ["TPU_LIBRARY_PATH"] = str(folder / _CHECKOUT)
            return
    raise ValueError(
        "to compile for TPUs takes libtpu, the TPU compiler, which is not installed: pip install "
        f"'{libtpu_requirement()}'"
    )


def libtpu_requirement() -> str:
    """What pip is to install for this version of JAX."""
    try:
        listed = [each.partition(";")[0].strip() for each in requires("jax") or ()]
    except PackageNotFoundError:
        listed = []
    return next((each for each in listed if each.startswith("libtpu")), "libtpu")


def _simulated(count: int) -> Sequence[Any]:
    jax.config.update("jax_platforms", "cpu")
    with suppress(RuntimeError):  # JAX has set up its devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(f"{count} devices cannot be simulated: JAX was set up with {len(devices)} before")
    return devices[:count]
