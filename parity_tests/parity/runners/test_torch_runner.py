import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare
from jax_attn.parity.runners.torch_copy import copied
from parity_tests.parity.pairs import draw

EXACT = ("float64",)


class Flax(nnx.Module):
    """A linear layer; where `cut`, it trains nothing."""

    def __init__(self, cut: bool = False):
        self.layer, self.cut = nnx.Linear(5, 5, rngs=nnx.Rngs(0)), cut

    def __call__(self, x):
        keep = jax.lax.stop_gradient if self.cut else lambda weight: weight
        return x @ keep(self.layer.kernel[...]) + keep(self.layer.bias[...])


class Torch(torch.nn.Module):
    def __init__(self, wrap=lambda module: module):
        super().__init__()
        self.layer = wrap(torch.nn.Linear(5, 5))

    def forward(self, x):
        return self.layer(x)


def checkpointed(module):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(module)


def renamed():
    module = Torch()
    module._register_state_dict_hook(
        lambda module, state, prefix, metadata: {k.replace("layer", "other"): v for k, v in state.items()}
    )
    return module


class Held(Torch):
    """Runs through a weak reference and a closure, both of which a plain copy leaves at the original."""

    def __init__(self):
        super().__init__()
        self.lock, self.library, self.me = threading.Lock(), np, [weakref.ref(self)]
        self.run = lambda x: self.layer(x)

    def forward(self, x):
        return self.me[0]().run(x)


WRAPPED = {
    "checkpoint": (lambda: Torch(checkpointed), ()),
    "compiled": (lambda: torch.compile(Torch(), backend="eager"), ()),
    "compiled inside": (lambda: Torch(lambda module: torch.compile(module, backend="eager")), ()),
    "DataParallel": (lambda: torch.nn.DataParallel(Torch()), ()),
    "named by hand": (lambda: torch.nn.DataParallel(Torch()), [("^", "module.")]),
    "a hook": (renamed, [("^layer", "other")]),
    "held": (Held, ()),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("weights", ["torch", pytest.param("flax", marks=pytest.mark.slow)])
def test_gradients_are_paired_through_wrappers_and_hooks(kind: str, weights: str):
    make, names = WRAPPED[kind]
    options = {"lanes": EXACT, "names": names, "weights": weights, "trace": False}
    compare(Flax(), make(), draw(2, 5), **options).assert_passed()
    wrong = compare(Flax(cut=True), make(), draw(2, 5), **options)
    assert [r.kind for r in wrong.failures] == ["gradient", "gradient"]


def test_what_a_call_has_kept_is_copied_as_a_value():
    module = Torch()
    module.kept = [module(torch.ones(2, 5))]
    other = copied(module)
    assert torch.equal(other.kept[0], module.kept[0])
    assert not other.kept[0].requires_grad
    compare(Flax(), module, draw(2, 5), lanes=EXACT).assert_passed()


def test_what_cannot_be_copied_is_named():
    module = Torch()
    module.settings = {"data": (i for i in range(3))}
    with pytest.raises(ValueError, match=r"Torch\.settings\.data is a generator, which cannot be copied"):
        copied(module)


@pytest.mark.parametrize("factor", [1, 2])
def test_what_changes_a_gradient_is_copied(factor: int):
    """A hook on a parameter, which no copy of a tensor has."""
    theirs = Torch()
    theirs.layer.weight.register_hook(lambda gradient: 2 * gradient)

    def scaled(module, x):
        kernel = module.layer.kernel[...]
        kernel = factor * kernel - jax.lax.stop_gradient((factor - 1) * kernel)
        return x @ kernel + module.layer.bias[...]

    report = compare(Flax(), theirs, draw(2, 5), lanes=EXACT, call_flax=scaled, trace=False)
    assert report.passed == (factor == 2)


# Casts.


class TorchTurn(torch.nn.Module):
    def __init__(self, parameter: bool):
        super().__init__()
        turn = torch.polar(torch.ones(5), torch.arange(5.0))
        if parameter:
            self.turn = torch.nn.Parameter(turn)
        else:
            self.register_buffer("turn", turn, persistent=False)

    def forward(self, x):
        return x * self.turn


class FlaxTurn(nnx.Module):
    def __init__(self, parameter: bool, change=lambda turn: turn):
        turn = jnp.exp(1j * jnp.arange(5, dtype=jnp.float32))
        self.turn = nnx.Param(turn) if parameter else nnx.Variable(turn)
        self.change = change

    def __call__(self, x):
        return x * self.change(self.turn[...])


@pytest.mark.parametrize("parameter", [True, False])
def test_complex_tensors_stay_complex(parameter: bool):
    options = {"lanes": ("float64", "float32"), "weights": "torch" if parameter else None, "trace": False}
    theirs, x = TorchTurn(parameter), draw(2, 5)
    if parameter:
        compare(FlaxTurn(parameter), theirs, x, **options).assert_passed()
        compare(FlaxTurn(parameter), theirs, x + 1j * draw(2, 5, seed=1), **options).assert_passed()
    for change in (lambda turn: turn.real + 0j, jnp.conj, lambda turn: jax.lax.stop_gradient(turn.real) + 0j):
        assert not compare(FlaxTurn(parameter, change), theirs, x, **options).passed


@pytest.mark.parametrize("kind", ["buffer", "saved buffer", "attribute"])
def test_a_table_of_angles_is_no_less_exact_than_loading_leaves_it(kind: str):
    frequencies = (1 / 10000 ** (np.arange(16) / 16)).astype(np.float32)

    class Rotary(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = None
            if kind == "attribute":
                self.table = torch.tensor(frequencies)
            else:
                del self.table
                self.register_buffer("table", torch.tensor(frequencies), persistent=kind == "saved buffer")

        def forward(self, x):
            angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * self.table.float()
            return x * angles.cos().to(x.dtype)

    class FlaxRotary(nnx.Module):
        def __init__(self, dtype):
            self.dtype_of_angles = dtype

        def __call__(self, x):
            dtype = self.dtype_of_angles
            angles = jnp.arange(x.shape[1], dtype=dtype)[:, None] * jnp.asarray(frequencies, dtype)
            return x * jnp.cos(angles).astype(x.dtype)

    options = {"lanes": ("bfloat16",), "weights": None, "trace": False}
    compare(FlaxRotary(jnp.float32), Rotary(), draw(1, 256, 16), **options).assert_passed()
    wrong = compare(FlaxRotary(jnp.bfloat16), Rotary(), draw(1, 256, 16), **options)
    assert not wrong.passed


def test_a_cast_inside_against_weights_of_another_dtype_is_compared():
    class Norm(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.float()).type(x.dtype)

    def compared(epsilon):
        flax = nnx.LayerNorm(5, epsilon=epsilon, use_fast_variance=False, rngs=nnx.Rngs(0))
        return compare(flax, Norm(5), draw(7, 5), lanes=("float32",), trace=False)

    compared(1e-5).assert_passed()
    assert not compared(1e-2).passed


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_of_any_width(dtype):
    def ours(x, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1).mean()

    report = compare(
        Flax(), Torch(), draw(3, 5), np.array([0, 4, 2], dtype), lanes=("float64", "float32"),
        call_flax=lambda module, x, labels: ours(module(x), labels),
        call_torch=lambda module, x, labels: torch.nn.functional.cross_entropy(module(x), labels),
    )  # fmt: skip
    report.assert_passed()


def test_an_output_that_ignores_the_weights_is_told():
    options = {"call_flax": lambda module, x: 2 * x, "call_torch": lambda module, x: 2 * x}
    report = compare(Flax(), Torch(), draw(2, 5), lanes=EXACT, **options)
    assert "no output depends on a parameter" in report.left_out[0].reason
