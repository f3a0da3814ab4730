"""Find the submodule at which a Flax module and a torch module begin to differ."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import Weights, carry_weights
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.module_pairs import ModuleNames
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Progress, Tracer
from jax_attn.parity.tracing.traced import ModuleTrace
from jax_attn.weights.rules import Names


def trace_modules(
    flax_module: nnx.Module,
    torch_module: Any,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    weights: Weights = "torch",
    names: Names = (),
    modules: ModuleNames | None = None,
    training: bool = False,
    bound: float = tolerances.MODULE,
    isolated: bool = True,
    backward: bool | None = None,
    call_flax: Callable[..., Any] | None = None,
    call_torch: Callable[..., Any] | None = None,
    seed: int = 0,
    progress: Progress = lambda what: None,
) -> ModuleTrace:
    """Compare every submodule of two modules on one call, in float64. Neither module is changed.

    Args:
        flax_module: any NNX module.
        torch_module: any torch module.
        inputs: positional arguments; arrays in NumPy.
        kwargs: keyword arguments.
        weights: whose weights both sides get; None leaves each its own.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`.
        modules: submodules that belong together, Flax path to torch path, where the weights do not tell; a
            `*` stands for one part of a path, and None for "with nothing".
        training: trace in training mode, with the same dropout masks on both sides; else both are traced in
            evaluation mode, whatever mode they are in.
        bound: an error up to it is agreement.
        isolated: also run each submodule on torch's inputs. It takes another forward pass.
        backward: trace gradients; None traces them if everything agrees forward.
        call_flax: `call_flax(module, *args, **kwargs)` in place of `module(*args, **kwargs)`.
        call_torch: the same for torch.
        seed: of the cotangents that gradients are taken with, and of the dropout masks.
        progress: called with what is done next.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: `modules` names a submodule that is not there.
    """
    lane = lanes_named(["dropout" if training else "float64"])[0]
    # Copies of the copies: those with the weights carried over are gone before the trace begins.
    tracer = Tracer(
        *carry_weights(flax_module, torch_module, weights, names),
        lane,
        names=names,
        modules=modules,
        bound=bound,
        call_flax=call_flax,
        call_torch=call_torch,
        seed=seed,
        original=flax_module,
    )
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
