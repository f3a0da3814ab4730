"""The contenders in torch: on the processor, or on a GPU where torch finds one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.contender import Contender


def device() -> str:
    """Where torch computes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def as_torch(array: Any, dtype: str) -> Any:
    """The same numbers in torch."""
    import torch

    return torch.from_numpy(np.array(array, np.float32)).to(device(), getattr(torch, dtype))


def heads_first(array: Any, dtype: str) -> Any:
    """`(B, T, N, H)` as torch's attention likes it, `(B, N, T, H)` and contiguous."""
    return as_torch(array, dtype).transpose(1, 2).contiguous()


def eager(
    function: Callable[..., Any],
    *operands: Any,
    cotangent: Any = None,
    wrt: Sequence[Any] | None = None,
    back: Callable[[Any], Any] = lambda tensor: tensor,
) -> Contender:
    """A torch function as a contender.

    Args:
        function: called with `operands`.
        operands: tensors on the device.
        cotangent: of the output; with it, gradients are computed as well.
        wrt: whose gradients; None is the operands'.
        back: brings the output and the gradients into the layout of the others.
    """
    import torch

    leaves = list(operands if wrt is None else wrt)
    if cotangent is not None:
        for leaf in leaves:
            leaf.requires_grad_()

    def run() -> list[Any]:
        with torch.inference_mode(cotangent is None):
            output = function(*operands)
            found = [output]
            if cotangent is not None:
                found += torch.autograd.grad(output, leaves, cotangent)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return found

    return Contender(run, lambda found: [numpy(back(tensor)) for tensor in found])


def numpy(tensor: Any) -> np.ndarray:
    """The numbers in float32."""
    return tensor.detach().float().cpu().numpy()
