"""What was measured, on what and when, as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from benchmarks.comparison import Comparison

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")


def record(benchmark: str, rounds: int, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Every single time, and what somebody needs who wants to measure it again."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }


def as_json(data: dict[str, Any]) -> str:
    """The text of a record."""
    return json.dumps(data, indent=1) + "\n"


def machine() -> dict[str, Any]:
    """Processor, cores, device, and how busy others keep it: a load above 0 disturbs every figure."""
    return {
        "device": device(),
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
    }


def device() -> str:
    """What JAX computes on."""
    kind = jax.devices()[0].device_kind
    return _processor() if kind == "cpu" else kind


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
