"""Records every submodule's calls on the torch side, with hooks: inputs, outputs and their gradients."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from jax_attn.parity.runners.calls import Call, cotangents
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.dropout_torch import record
from jax_attn.parity.runners.torch_runner import TorchSide
from jax_attn.parity.tracing.recording import (
    CallRecord,
    Recording,
    argument_names,
    is_float,
    named_tensors,
    opened,
    replace_tensors,
)
from jax_attn.weights.tensors import as_numpy, is_torch_tensor


class TorchRecorder(TorchSide):
    """A torch module whose runs are recorded. A module that occurs twice goes by its first path."""

    def record(self, call: Call, seed: int, *, backward: bool = False, tape: Tape | None = None) -> Recording:
        """One run of the module.

        Args:
            call: the call, in the lane's dtype.
            seed: of the cotangents.
            backward: whether gradients are recorded too.
            tape: takes the dropout masks.
        """
        recording, changed = self._run(call, seed, backward, tape, keep_copies=False)
        if recording.failure is not None and self._settled(call):
            recording, changed = self._run(call, seed, backward, tape, keep_copies=False)
        if changed:  # a tensor was kept, and then written to in place
            again = None if tape is None else Tape(tape.seed)
            recording, _ = self._run(call, seed, backward, again, keep_copies=True)
        return recording

    def _settled(self, call: Call) -> bool:
        """Whether another way was found to run the module."""
        with self._surroundings(call):
            return self.ways.settle(call, self.inputs(call))

    def _run(
        self, call: Call, seed: int, backward: bool, tape: Tape | None, keep_copies: bool
    ) -> tuple[Recording, bool]:
        import torch

        recording, keeper = Recording("torch"), _Keeper(keep_copies)
        inputs = self.inputs(call)
        leaves = [*self.parameters.values(), *(tensor for tensor in inputs if tensor.requires_grad)]
        recording.whole.inputs = dict(zip(call.form.names, call.arrays, strict=True))
        with ExitStack() as around, recording.failures_kept(type(self.module).__name__):
            around.enter_context(self._surroundings(call))
            around.enter_context(_slow_paths())
            with ExitStack() as forward:
                forward.enter_context(torch.set_grad_enabled(backward))
                intercept = ExitStack if tape is None else lambda: record(tape, self.module)
                forward.enter_context(intercept())
                forward.enter_context(_hooks(self.module, recording, keeper, backward))
                value = self.ways.once(call, inputs)
            recording.whole.returned(value, keeper.keep)
            if backward:
                _, tensors = opened(value)
                outputs = [tensor for tensor in map(torch.as_tensor, tensors) if tensor.is_floating_point()]
                weights = cotangents([tuple(tensor.shape) for tensor in outputs], self.lane, seed)
                gradients = self._gradients(outputs, weights, leaves)
                recording.parameter_gradients = dict(zip(self.parameters, gradients, strict=False))
                by_input = gradients[len(self.parameters) :]
                recording.whole.gradients = dict(zip(call.floating_names, by_input, strict=True))
        return recording, keeper.changed


class _Keeper:
    """Keeps tensors as NumPy arrays: of the tensor's own memory, as long as nothing is written to it."""

    def __init__(self, copies: bool):
        self.copies = copies
        self.overwritten = False
        self.kept: dict[int, tuple[Any, int, np.ndarray]] = {}

    def keep(self, tensor: Any) -> np.ndarray:
        if not is_torch_tensor(tensor):
            return np.asarray(tensor)
        found = self.kept.get(id(tensor))
        if found is None or found[1] != tensor._version:
            self.overwritten |= found is not None
            plain = tensor.detach()
            array = as_numpy(plain.to_dense() if plain.is_sparse else plain)
            found = tensor, tensor._version, array.copy() if self.copies else array
            self.kept[id(tensor)] = found
        return found[2]

    @property
    def changed(self) -> bool:
        """Whether something was written to what was kept, and there is no copy of it."""
        now = any(tensor._version != version for tensor, version, _ in self.kept.values())
        return not self.copies and (now or self.overwritten)


@contextmanager
def _slow_paths() -> Generator[None]:
    """Torch's fused encoder layer calls no submodules, and gives other values where a mask hides tokens."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _hooks(module: Any, recording: Recording, keeper: _Keeper, backward: bool) -> Generator[None]:
    """Within it, each call of a submodule is recorded."""
    open_calls: list[tuple[Any, CallRecord | None]] = []

    def before(path: str, names: tuple[str, ...], called: Any, args: Any, kwargs: Any) -> Any:
        if recording.is_running(path):
            open_calls.append((called, None))
            return None
        call = recording.begin(path, type(called).__name__, names)
        call.inputs = {name: keeper.keep(t) for name, t in named_tensors(names, args, kwargs).items()}
        open_calls.append((called, call))
        return replace_tensors(names, args, kwargs, partial(_watched, call, {})) if backward else None

    def after(called: Any, args: Any, kwargs: Any, output: Any) -> Any:
        owner, call = open_calls.pop()
        while owner is not called:  # a call inside raised, and this module went on
            if call is not None:
                recording.end()
            owner, call = open_calls.pop()
        if call is None:
            return None
        recording.end()
        call.finished = True
        call.returned(output, keeper.keep)
        return _watched_output(call, output) if backward and call.skeleton is not None else None

    handles = []
    for path, child in module.named_modules():
        enter = partial(before, path, argument_names(child.forward))
        handles.append(child.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(child.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watched(call: CallRecord, own: dict[int, Any], name: str, tensor: Any) -> Any:
    """A tensor of the call's own, whose gradient is what this call adds to that of the input."""
    if not (is_float(tensor) and getattr(tensor, "requires_grad", False)):
        call.unwatched.add(name)
        return tensor
    if id(tensor) not in own:  # one tensor given twice stays one tensor: modules ask `query is key`
        own[id(tensor)] = tensor.view_as(tensor)
        own[id(tensor)].register_hook(partial(_store, call.gradients, name))
    return own[id(tensor)]


def _watched_output(call: CallRecord, output: Any) -> Any:
    """The output, in tensors whose gradient is what comes from outside: inside it may be used as well."""
    from torch.utils._pytree import tree_leaves, tree_map

    tensors = opened(output)[1]
    own = {
        id(tensor): tensor.view_as(tensor)
        for tensor in tensors
        if is_float(tensor) and getattr(tensor, "requires_grad", False)
    }
    reached = own.keys() & {id(leaf) for leaf in tree_leaves(output)}
    for position, tensor in enumerate(tensors):
        if id(tensor) in reached:
            own[id(tensor)].register_hook(partial(_store, call.gradients, position))
        else:
            call.unwatched.add(position)
    return tree_map(lambda leaf: own.get(id(leaf), leaf), output)


def _store(gradients: dict[Any, np.ndarray], key: Any, gradient: Any) -> None:
    gradients[key] = as_numpy(gradient)


def called_modules(module: Any) -> list[tuple[str, list[str], str]]:
    """(first path, all paths, class) of each submodule that can be called; the module itself has the path ""."""
    if isinstance(module.modules, list):  # a recorded one
        return module.modules
    import torch

    found: dict[int, tuple[str, list[str], str]] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        if type(child).forward is not torch.nn.Module.forward:
            found.setdefault(id(child), (path, [], type(child).__name__))[1].append(path)
    return list(found.values())
