"""How both sides are run, and what is told where one cannot be."""

import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare, compare_cases
from jax_attn.parity.diagnosing.diagnose import diagnose
from jax_attn.parity.tracing.trace import Tracer
from parity_tests.parity.pairs import (
    CASES,
    EXACT,
    Nothing,
    TorchNothing,
    compare_functions,
    draw,
    flax_block,
    linear,
    torch_block,
)

# Sides that cannot be run.


def raise_it(x):
    raise RuntimeError("no such thing")


def test_a_module_that_raises_fails_and_the_other_lanes_go_on():
    def in_low_precision(x):
        return raise_it(x) if x.dtype == jnp.bfloat16 else x

    report = compare_functions(in_low_precision, lambda x: x, draw(2, 3), lanes=("bfloat16", "float64"))
    assert [(r.lane, r.kind, r.name) for r in report.failures] == [("bfloat16", "run", "flax")]
    assert report.failures[0].detail == "flax raised RuntimeError: no such thing"
    assert all(r.passed for r in report.select("float64"))
    report = compare_functions(lambda x: x, raise_it, draw(2, 3))
    assert report.failures[0].detail == "torch raised RuntimeError: no such thing"


def test_what_torch_has_not_in_16_bits_tells_nothing_of_flax():
    def in_high_precision(x):
        return raise_it(x) if x.dtype == torch.bfloat16 else x

    report = compare_functions(lambda x: x, in_high_precision, draw(2, 3), lanes=("bfloat16", "float64"))
    assert report.passed
    (left_out,) = [entry for entry in report.left_out if entry.lane == "bfloat16"]
    assert left_out.reason == "torch raised RuntimeError: no such thing, and runs in float64"
    report = compare_functions(lambda x: x, in_high_precision, draw(2, 3), lanes=("bfloat16",))
    assert report.verdict == "nothing was compared"
    report = compare_functions(lambda x: x, raise_it, draw(2, 3), lanes=("bfloat16",))
    assert [result.detail for result in report.failures] == ["torch raised RuntimeError: no such thing"]


def test_a_case_that_raises_leaves_the_others_alone():
    cases = [Case("narrow", (draw(2, 4),)), Case("fits", (draw(2, 5),))]
    report = compare_cases(linear(), torch.nn.Linear(5, 3), cases, lanes=EXACT)
    assert {r.case for r in report.failures} == {"narrow"}
    assert all(r.passed for r in report.results if r.case == "fits")


def test_a_module_with_16_bits_of_its_own_is_told():
    report = compare(linear(dtype=jnp.bfloat16), torch.nn.Linear(5, 3), draw(2, 5), lanes=EXACT)
    assert not report.passed
    detail = report.worst(kind="output").detail
    assert "flax gives bfloat16 in the float64 lane" in detail
    assert "was built with dtype=bfloat16, so it cannot compute in float64" in detail


def test_complex_numbers_of_64_bits_are_as_wide_as_the_lane():
    report = compare_functions(lambda x: 2 * x, lambda x: x, draw(2, 3) * (1 + 1j), lanes=("float64",))
    assert report.failures
    assert not [result.detail for result in report.failures if "in the float64 lane" in result.detail]


# How it runs.


def test_calls_of_one_shape_are_compiled_once():
    traces = []

    def counted(x, factor):
        traces.append(x.shape)
        return x * factor

    cases = [Case(str(i), (draw(2, 3, seed=i), factor)) for i, factor in enumerate((2, 2, 2, 3))]
    compare_cases(Nothing(counted), TorchNothing(lambda x, f: x * f), cases, lanes=EXACT).assert_passed()
    assert len(traces) == 2


def test_a_ratio_is_not_failed_by_a_lucky_draw_of_torch():
    """Five numbers are few: without more draws, one in some hundred such tensors would fail by chance."""
    cases = [Case(str(i), (draw(2, 5, seed=i),)) for i in range(60)]
    theirs = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    flax = nnx.Sequential(linear(5, 3), jnp.tanh, linear(3, 1))
    report = compare_cases(flax, theirs, cases, lanes=("float32",))
    report.assert_passed()


def test_more_noise_than_torch_is_seen():
    """Half of the digits of float32 thrown away: no number of draws makes that good."""

    def rough(x):
        return (x.astype(jnp.bfloat16).astype(x.dtype) + x * 63) / 64

    report = compare_functions(rough, lambda x: (x + x * 63) / 64, draw(20, 30), lanes=("float32",))
    assert report.worst("float32", "output").ratio > 10


def test_a_side_that_takes_the_given_numbers_alone_is_measured_once():
    given = draw(20, 30)

    def picky(x):
        if x.dtype == torch.float32 and not np.array_equal(x.detach().numpy(), given.astype(np.float32)):
            raise LookupError("other numbers")
        return (x + x * 63) / 64

    def rough(x):
        return (x.astype(jnp.bfloat16).astype(x.dtype) + x * 63) / 64

    report = compare_functions(rough, picky, given, lanes=("float32",), trace=False)
    output = report.worst("float32", "output")
    assert output.ratio > 10
    assert output.detail.endswith("measured once: nearby, LookupError: other numbers")


def test_a_fault_of_the_comparison_itself_is_not_taken_for_a_verdict(monkeypatch):
    def broken(*args):
        raise TypeError("a fault of ours")

    monkeypatch.setattr(sys.modules["jax_attn.parity.judging.lane_run"], "pooled", broken)
    with pytest.raises(TypeError, match="a fault of ours"):
        compare_functions(lambda x: x + 1, lambda x: x * 1.001, draw(2, 3), lanes=("float32",), trace=False)


def test_a_large_model_goes_lane_by_lane(monkeypatch):
    monkeypatch.setattr(sys.modules["jax_attn.parity.comparison"], "SMALL", 0)
    report = compare_cases(flax_block(), torch_block(), CASES[:2], lanes=("float64", "dropout"))
    report.assert_passed()
    assert len(report.results) == 2 * 2 * 12
    assert not compare_cases(flax_block("tanh GELU"), torch_block(), CASES[:1], lanes=EXACT).passed


def test_arguments_of_every_kind_reach_both_sides():
    def weigh(x, pair, factor=None, masks=None, name=""):
        assert name == "a name"
        return factor * x + pair[0] - pair[1] * masks["keep"]

    report = compare(
        Nothing(weigh), TorchNothing(weigh), draw(2, 3), (draw(2, 3), draw(3)),
        kwargs={"factor": 2.0, "masks": {"keep": np.array([1, 0, 1])}, "name": "a name"}, lanes=EXACT,
    )  # fmt: skip
    report.assert_passed()
    assert [r.name for r in report.select(kind="gradient")] == ["input 0", "input 1.0", "input 1.1"]


def test_progress_is_told():
    seen = []
    compare_cases(
        linear(), torch.nn.Linear(5, 3), [Case("one", (draw(2, 5),))], lanes=EXACT,
        progress=lambda lane, case: seen.append((lane, case)),
    )  # fmt: skip
    assert seen == [("float64", "one")]


def test_what_holds_no_values_is_not_compared():
    report = compare_functions(lambda x: (x[:0] * 7, x), lambda x: (x[:0], x), np.ones((3, 2)))
    assert report.passed
    assert any(left.reason == "it holds no values" for left in report.left_out)
    assert not compare_functions(lambda x: x[:0] * 7, lambda x: x[:0], np.ones((3, 2))).passed


def test_a_weight_that_is_frozen_in_torch_is_compared():
    flax, torch_module = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    torch_module.bias.requires_grad_(False)
    report = compare(flax, torch_module, np.ones((2, 3)), lanes=EXACT)
    report.assert_passed()
    assert not report.left_out
    assert "bias" in {r.name for r in report.results}


def test_a_weight_that_is_frozen_in_torch_may_be_stopped_in_flax():
    """Neither side trains it. What torch trains may not be stopped, and what else is wrong is still found."""

    def stopped(module, x):
        return x @ jax.lax.stop_gradient(module.kernel[...]) + module.bias[...]

    def halved(module, x):
        return stopped(module, x) - 0.5 * (module.bias[...] - jax.lax.stop_gradient(module.bias[...]))

    flax, torch_module = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    pair = flax, torch_module, draw(2, 3)
    assert not compare(*pair, lanes=EXACT, call_flax=stopped).passed
    torch_module.weight.requires_grad_(False)
    report = compare(*pair, lanes=EXACT, call_flax=stopped)
    report.assert_passed()
    assert "gradient: frozen in torch, and stopped in flax" in {left.reason for left in report.left_out}
    report = compare(*pair, lanes=EXACT, call_flax=halved)
    assert {result.name for result in report.failures} == {"bias"}
    assert diagnose(report).divergence.kind == "parameter gradient"
    assert "weight" not in str(report.first_divergence)


def test_the_first_divergence_is_told_unasked_and_its_failure_costs_nothing(monkeypatch):
    pair = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    options = {"lanes": ("float64",), "call_flax": lambda module, x: 2 * module(x)}
    assert compare(*pair, draw(2, 3), **options).first_divergence.flax_class == "the call"
    assert compare(*pair, draw(2, 3), trace=False, **options).first_divergence is None

    def broken(*args):
        raise RuntimeError("no trace of it")

    monkeypatch.setattr(Tracer, "__init__", broken)
    report = compare(*pair, draw(2, 3), **options)
    assert not report.passed
    assert "the trace raised RuntimeError: no trace of it" in str(report)


def test_submodules_that_are_paired_by_hand_and_are_not_there_are_told():
    pair = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    options = {"lanes": EXACT, "call_flax": lambda module, x: 2 * module(x)}
    with pytest.raises(ValueError, match="flax has no such submodule"):
        compare(*pair, draw(2, 3), modules={"block": ""}, **options)


def test_a_report_goes_to_another_process_without_the_modules():
    pair = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    report = compare(*pair, draw(2, 3), lanes=("float64",), call_flax=lambda module, x: 2 * module(x))
    sent = pickle.loads(pickle.dumps(report))
    assert (sent.results, sent.first_divergence) == (report.results, report.first_divergence)
    assert sent.trace is sent.compared is None


def test_integers_alone_are_compared_in_float64_alone():
    lanes = ("float64", "float32", "bfloat16")
    report = compare_functions(lambda x: x.argmax(-1), lambda x: x.argmax(-1), draw(2, 3), lanes=lanes)
    report.assert_passed()
    assert {result.lane for result in report.results} == {"float64"}
    assert {entry.lane for entry in report.left_out} >= {"float32", "bfloat16"}


def test_what_is_only_less_exact_is_told_so():
    def rounded(x):
        return x.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else x

    report = compare_functions(rounded, lambda x: x * 1.0, draw(2, 3), lanes=("float64", "float32"))
    assert {result.lane for result in report.failures} == {"float32"}
    assert all("float64 agrees: the same mathematics" in result.detail for result in report.failures)
