"""What a program frees it allocates again, without the kernel: in processes of their own, for a setting stays."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from jax_attn import keep_freed_memory
kept = keep_freed_memory()
import jax, jax.numpy as jnp

@jax.jit
def reversed_twice(x):  # its temporaries take more than 100 MB, at any degree of fusion
    for _ in range(2):
        x = jax.lax.optimization_barrier(x[::-1] * 2)
        x = jax.lax.optimization_barrier(jnp.cumsum(x, axis=1))
    return x.sum()

x = jnp.ones((4000, 4000))
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    reversed_twice(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")


def run(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, int]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", PROGRAM]
    kept, faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return kept, int(faults)


def test_pages_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, faults = run(monkeypatch)
    assert kept == "True"
    assert faults < 1000  # 100 MB are 25,000 pages


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"
    assert run(monkeypatch, MALLOC_ARENA_MAX="2")[0] == "False"
