"""Compile quickly rather than for speed: for code that runs once."""

from functools import cache
from typing import Any

import jax

# Unoptimised, by the old emitters where there still are any (JAX 0.10): a fifth of the compile time for code that
# runs once, and without them a half. The mathematics is fixed before they are reached.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


@cache
def quick_options() -> dict[str, Any] | None:
    """What this JAX knows of `QUICK`, where it compiles for a CPU."""
    if jax.default_backend() != "cpu":
        return None
    if _are_known(QUICK):
        return QUICK
    return {name: value for name, value in QUICK.items() if _are_known({name: value})} or None


def _are_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except Exception:  # whatever a later XLA says of a name that it has dropped
        return False
    return True


def quick_flags() -> str:
    """The same for a whole process, as `XLA_FLAGS` has it: what runs outside of `jit` compiles as well."""
    options = quick_options() or {}
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
