"""In which dtype sums are added up."""

from typing import Any

import jax.numpy as jnp


def accumulator(dtype: Any) -> Any:
    """float32 for 16 bits, the dtype itself from float32 up; under strict promotion too."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)
