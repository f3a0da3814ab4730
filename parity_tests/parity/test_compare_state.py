"""Neither module is changed, and what a call leaves behind is compared."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare, compare_cases
from parity_tests.parity.pairs import (
    CASES,
    EXACT,
    Nothing,
    TorchNothing,
    compare_functions,
    draw,
    flax_block,
    torch_block,
)

# Nothing is changed.


def snapshot(flax, theirs):
    graphdef, state = nnx.split(flax)
    return (
        graphdef,
        [(leaf, str(leaf.dtype)) for leaf in jax.tree.leaves(state)],
        {key: (value.data_ptr(), value.clone(), value.dtype) for key, value in theirs.state_dict().items()},
        {key: (value.requires_grad, value.grad) for key, value in theirs.named_parameters()},
        [module.training for module in theirs.modules()],
        torch.random.get_rng_state(),
        torch.get_default_dtype(),
        (torch.nn.functional.dropout, torch.dropout, jax.random.bernoulli, jax.lax.scan),
        jax.config.jax_enable_x64,
        torch.is_grad_enabled(),
    )


def assert_unchanged(before, after):
    for one, other in zip(before, after, strict=True):
        flat, flat_after = jax.tree.leaves(one), jax.tree.leaves(other)
        assert len(flat) == len(flat_after)
        for a, b in zip(flat, flat_after, strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b)
            else:
                assert a is b or a == b


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weights", ["torch", "flax", None])
def test_neither_module_is_changed(training: bool, weights: str | None):
    flax, theirs = flax_block(), torch_block()
    theirs.train(training)
    theirs.q.weight.requires_grad_(False)
    flax.eval() if training else flax.train()
    before = snapshot(flax, theirs)
    with torch.no_grad():
        compare_cases(flax, theirs, CASES[:1], weights=weights, lanes=("float64", "dropout"))
    assert_unchanged(before, snapshot(flax, theirs))
    assert flax.dropout.deterministic is training


def test_neither_module_is_changed_by_one_that_raises():
    flax, theirs = flax_block(), torch_block()
    before = snapshot(flax, theirs)
    case = Case("bad mask", (draw(3, 5, 6), np.ones((3, 4, 4), bool)))
    report = compare_cases(flax, theirs, [case])
    assert len(report.failures) == 4
    assert_unchanged(before, snapshot(flax, theirs))


def test_a_torch_module_in_training_mode_is_compared_in_evaluation_mode():
    theirs = torch_block().train()
    compare_cases(flax_block(), theirs, CASES[:1], lanes=EXACT).assert_passed()
    assert theirs.training


def test_inputs_are_not_changed_by_a_module_that_works_in_place():
    x = draw(2, 3)
    before = copy.deepcopy(x)
    compare_functions(lambda x: 2 * x, lambda x: x.mul_(2), x).assert_passed()
    assert np.array_equal(x, before)


# What the call leaves behind.


def statistics(momentum: float):
    """A BatchNorm of either side, in training mode."""
    flax = nnx.BatchNorm(3, momentum=momentum, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    return compare(flax, torch.nn.BatchNorm1d(3), draw(5, 3), lanes=("float64", "dropout"))


def test_running_statistics_are_compared():
    wrong, right = statistics(0.99), statistics(0.9)
    assert {(r.lane, r.kind, r.name) for r in wrong.failures} == {
        ("dropout", "buffer", "running_mean"),
        ("dropout", "buffer", "running_var"),
    }
    # Flax keeps the biased variance.
    (failure,) = right.failures
    assert failure.name == "running_var"
    assert "the unbiased one" in failure.detail
    told = [(e.lane, e.name, e.reason) for e in right.left_out if e.name != "first divergence"]
    assert told == [("dropout", "num_batches_tracked", "buffer: changed by torch, no counterpart in flax")]


class Counting(nnx.Module):
    """Counts its calls, and keeps a running mean, in any mode."""

    def __init__(self, kind=nnx.Variable, step: int = 1, rate: float = 0.25):
        self.calls, self.mean = kind(jnp.array(0)), kind(jnp.zeros(3))
        self.step, self.rate = step, rate

    def __call__(self, x):
        self.calls[...] = self.calls[...] + self.step
        self.mean[...] = self.mean[...] + self.rate * (jax.lax.stop_gradient(x).mean(0) - self.mean[...])
        return x + 1


class TorchCounting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("expanded", torch.ones(1).expand(4), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1  # another tensor under the same name
        self.mean.lerp_(x.detach().mean(0), 0.25)
        return x + 1


@pytest.mark.parametrize("kind", [nnx.Variable, Buffer, nnx.BatchStat])
def test_state_of_any_kind_is_compared_in_every_exact_lane(kind):
    theirs, x = TorchCounting(), draw(5, 3)
    lanes = ("float64", "float32", "dropout")
    flax = Counting(kind)
    report = compare(flax, theirs, x, lanes=lanes)
    report.assert_passed()
    assert {(r.lane, r.name) for r in report.select(kind="buffer")} == {
        (lane, name) for lane in ("float64", "dropout") for name in ("calls", "mean")
    }
    assert (int(theirs.calls), int(flax.calls[...])) == (0, 0)
    for wrong, name in ((Counting(kind, step=2), "calls"), (Counting(kind, rate=0.3), "mean")):
        failures = compare(wrong, theirs, x, lanes=EXACT).failures
        assert [(r.kind, r.name) for r in failures] == [("buffer", name)]
    idle = compare(Counting(kind, step=0, rate=0.0), theirs, x, lanes=EXACT)
    assert {r.name for r in idle.failures} == {"calls", "mean"}


def test_state_without_a_counterpart_is_told():
    x = draw(5, 3)
    ours = compare(Counting(), TorchNothing(lambda x: x + 1), x, weights=None, lanes=EXACT)
    theirs = compare(Nothing(lambda x: x + 1), TorchCounting(), x, weights=None, lanes=EXACT)
    for report, reason in (
        (ours, "buffer: changed by flax, no counterpart in torch"),
        (theirs, "buffer: changed by torch, no counterpart in flax"),
    ):
        report.assert_passed()
        assert {e.name for e in report.left_out if e.reason == reason} == {"calls", "mean"}
