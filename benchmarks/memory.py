"""How much memory there is, and who would need more: known from the compiled program, before it runs."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax

from benchmarks.contender import Contender

SHARE = 0.8  # of what is free: others want to live too
GIGABYTE = 2**30


def free_bytes() -> int:
    """What the device that computes could still hold."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def too_large(contenders: Mapping[str, Contender], free: int) -> dict[str, str]:
    """Who needs more than there is, and the reason in words. The first, ours, always takes part."""
    found = {}
    for name, contender in list(contenders.items())[1:]:
        needed = contender.temporaries or 0
        if needed > SHARE * free:
            found[name] = f"needs {needed / GIGABYTE:.1f} GB, and {free / GIGABYTE:.1f} GB are free"
    return found
