"""Records one call of a torch module, to be compared elsewhere: each lane's runs, and every submodule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.recorded.files import Parameter, RecordedDraw, RecordedModule, TorchTrace
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.torch_keys import buffers_of, parameters_of
from jax_attn.parity.runners.torch_runner import TorchSide
from jax_attn.parity.tracing.recording_torch import TorchRecorder, called_modules
from jax_attn.weights.tensors import as_numpy, is_torch_tensor

RECORDED_LANES = ("float64", "float32")


def record_trace(
    module: Any, case: Case, *, call: Callable[..., Any] | None = None, seed: int = 0
) -> TorchTrace:
    """The trace of one call, in evaluation mode. The module is not changed.

    Args:
        module: any torch module.
        case: the call.
        call: `call(module, *args, **kwargs)` in place of calling the module itself.
        seed: of the cotangents that gradients are taken with.

    Raises:
        ValueError: the module raises.
    """
    form = Call.of(case)
    draws, recordings = {}, {}
    for lane in lanes_named(RECORDED_LANES):
        given = form.cast(lane)
        recording = TorchRecorder(module, lane, call).record(given, seed, backward=True)
        if recording.failure is not None:
            raise ValueError(str(recording.failure))
        recordings[lane.name] = recording
        side = TorchSide(module, lane, call)
        truth = None if lane.exact else TorchSide(module, lane, call, truth=True)
        draws[lane.name] = []
        # More draws of the rounding errors, as a comparison asks for where a noise ratio is above its bound.
        for draw in range(1 if lane.exact else min(tolerances.DRAWS)):
            moved = given.nearby(lane, draw) if draw else given
            skeleton, run = side.run(moved, seed + draw)
            exact = run if truth is None else truth.run(moved, seed + draw)[1]
            run, exact = (replace(each, buffers=None) for each in (run, exact))  # they are not recorded
            draws[lane.name].append(RecordedDraw(skeleton, run, exact))
    return TorchTrace(_recorded(module), case, seed, draws, recordings)


def _recorded(module: Any) -> RecordedModule:
    return RecordedModule(
        {k: as_numpy(t) for k, t in module.state_dict().items() if is_torch_tensor(t)},
        {key: Parameter(p.requires_grad) for key, p in parameters_of(module).items()},
        list(buffers_of(module)),
        called_modules(module),
        module.training,
    )
