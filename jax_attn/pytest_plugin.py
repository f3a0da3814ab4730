"""The pytest fixture `assert_parity`. Pytest loads this file at every start, so it imports nothing else."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_parity() -> Callable[..., Any]:
    """Asserts that a Flax module computes what a torch module does, and returns the report.

    The arguments are those of `jax_attn.parity.compare`:

        def test_my_port(assert_parity):
            report = assert_parity(flax_model, torch_model, x, lanes=["float64"])

    Where they differ, the AssertionError shows the tensors and the first submodule that does something else.
    """

    def check(flax_module: Any, torch_module: Any, *inputs: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        from jax_attn.parity.compare import compare

        options.setdefault("trace", True)
        report = compare(flax_module, torch_module, *inputs, **options)
        report.assert_passed()
        return report

    return check
