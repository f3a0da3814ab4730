"""Ours beside modules that we did not write."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.places import Places


def assert_equals(ours: nnx.Module, theirs: torch.nn.Module, cases: Sequence[Case], **options: Any) -> None:
    """Outputs and all gradients are the same in float64, with the weights of theirs, which are drawn here.

    `options` are those of `compare_cases`: `names` for keys that differ, `whole_model` for its bound.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    report = compare_cases(ours, theirs.eval(), cases, lanes=("float64",), trace=False, **options)
    report.assert_passed()


@contextmanager
def float32_lifted() -> Generator[None]:
    """Within it, a function of torch that asks for float32, or takes it by default, computes in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with lifted_torch(Places()):
            yield
    finally:
        torch.set_default_dtype(default)
