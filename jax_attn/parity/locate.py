"""Find the submodule at which a Flax module and a torch module begin to differ."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Progress, Tracer
from jax_attn.parity.tracing.traced import ModuleTrace


def trace_modules(
    flax_module: nnx.Module,
    torch_module: Any,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    training: bool = False,
    bound: float = tolerances.MODULE,
    isolated: bool = True,
    backward: bool | None = None,
    progress: Progress = lambda what: None,
    **options: Any,
) -> ModuleTrace:
    """Compare every submodule of two modules on one call, in float64. Neither module is changed.

    Args:
        flax_module: any NNX module.
        torch_module: any torch module.
        inputs: positional arguments; arrays in NumPy.
        kwargs: keyword arguments.
        training: trace in training mode, with the same dropout masks on both sides; else both are traced in
            evaluation mode, whatever mode they are in.
        bound: an error up to it is agreement.
        isolated: also run each submodule on torch's inputs. It takes another forward pass.
        backward: trace gradients; None traces them if everything agrees forward.
        progress: called with what is done next.
        options: `weights`, `names`, `modules`, `call_flax`, `call_torch` and `seed`, as in `compare_cases`.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: `modules` names a submodule that is not there.
    """
    lane = lanes_named(["dropout" if training else "float64"])[0]
    # Not kept in a variable: of the copies with the weights carried over no more than one is held at a time.
    tracer = Tracer(Comparison(flax_module, torch_module, **options).carry()[0], lane, bound)
    return tracer.trace(
        Case("", inputs, dict(kwargs or {})), isolated=isolated, backward=backward, progress=progress
    )


def first_divergence(
    flax_module: nnx.Module, torch_module: Any, *inputs: Any, **options: Any
) -> Divergence | None:
    """The first submodule whose output differs while its inputs agree, or else whose gradients do.

    The arguments are those of `trace_modules`. None is given only where the whole output was compared, and it
    and all gradients agree.

    >>> print(first_divergence(flax_model, torch_model, x))  # doctest: +SKIP
    """
    return find(trace_modules(flax_module, torch_module, *inputs, **options))
