import copy
import pickle
import sys
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import UNTRAINED, compare, compare_cases
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.weights import StateDictError
from parity_tests.parity.pairs import CASES, draw, flax_block, torch_block

EXACT = ("float64",)


def linear(features_in: int = 5, features_out: int = 3, **options) -> nnx.Linear:
    return nnx.Linear(features_in, features_out, rngs=nnx.Rngs(0), **options)


def test_a_correct_pair_passes_in_every_lane():
    report = compare_cases(flax_block(), torch_block(), CASES[:2])
    report.assert_passed()
    assert report.lanes == ["float64", "float32", "bfloat16", "dropout"]
    # One output, ten parameters and one floating input; the mask has no gradient.
    assert len(report.results) == 4 * 2 * 12
    assert {r.kind for r in report.results} == {"output", "gradient", "input gradient"}
    assert not report.left_out
    assert all(r.ratio is None for r in report.select("float64"))
    assert all(0 < r.ratio <= 2 for r in report.select("bfloat16", "output"))


@pytest.mark.parametrize(
    "mutation",
    [
        "tanh GELU",
        "eps of LayerNorm",
        "variance in one pass",
        "transposed weight",
        "swapped q and k",
        "inverted mask",
        "no scale",
        "cut gradient",
        "bfloat16 inside",
    ],
)
def test_a_injected_mutation_is_seen_in_float64(mutation: str):
    report = compare_cases(flax_block(mutation), torch_block(), CASES, lanes=EXACT, trace=False)
    assert not report.passed
    assert len(report.results) == 3 * 12
    with pytest.raises(AssertionError, match="FAILED"):
        report.assert_passed()


def test_the_inputs_decide_what_is_seen():
    """A large mean shows the variance in one pass at a glance, N(0, 1) hardly."""
    pair = flax_block("variance in one pass"), torch_block()
    report = compare_cases(*pair, CASES, lanes=("float32",), trace=False)
    worst = {
        name: max(r.severity for r in report.results if r.case == name) for name in ("plain", "large mean")
    }
    assert worst["plain"] < 1 < worst["large mean"] / 100


def test_a_gradient_alone_may_differ():
    report = compare_cases(flax_block("cut gradient"), torch_block(), CASES[:1], lanes=EXACT, trace=False)
    assert report.worst("float64", "output").passed
    assert not report.worst("float64", "gradient").passed
    failing = {r.name for r in report.failures}
    assert {"q.weight", "v.bias", "norm.weight", "input 0"} <= failing
    assert "out.weight" not in failing


# Pairs that are not ours.


def test_sequential():
    flax = nnx.Sequential(linear(5, 7), nnx.relu, linear(7, 3))
    theirs = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(inplace=True), torch.nn.Linear(7, 3))
    report = compare(flax, theirs, draw(2, 5))
    report.assert_passed()
    assert {r.name for r in report.select("float64", "gradient")} == {
        "0.weight", "0.bias", "2.weight", "2.bias", "input 0"
    }  # fmt: skip


def test_convolution_and_batch_norm_in_evaluation_mode():
    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.conv(x))

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 3)
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

    theirs = Torch()
    theirs(torch.randn(4, 5, 7, 2))  # running statistics that are not the initial ones
    assert theirs.training
    lanes = ("float64", "float32", "bfloat16")
    report = compare(Flax(nnx.Rngs(0)), theirs, draw(2, 5, 7, 2), lanes=lanes)
    report.assert_passed()
    assert not report.left_out


def test_multi_head_attention_of_both_frameworks():
    flax = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0), attention_fn=_exact_attention)
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True)
    report = compare(
        flax, theirs, draw(2, 5, 6), lanes=("float64", "float32"),
        call_torch=lambda module, x: module(x, x, x, need_weights=False)[0],
    )  # fmt: skip
    report.assert_passed()


def test_the_softmax_of_flax_is_lifted_in_float64():
    """`nnx.MultiHeadAttention` as it comes computes its softmax in float32."""
    flax = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0))
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True)
    report = compare(
        flax, theirs, draw(2, 5, 6), lanes=EXACT,
        call_torch=lambda module, x: module(x, x, x, need_weights=False)[0],
    )  # fmt: skip
    report.assert_passed()
    assert "flax in " in next(entry.reason for entry in report.left_out if entry.name == "float32 inside")


def _exact_attention(query, key, value, **options):
    weights = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", query, key) / query.shape[-1] ** 0.5)
    return jnp.einsum("bnqk,bknh->bqnh", weights, value)


def test_tied_weights():
    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(7, 5, rngs=rngs)

        def __call__(self, ids):
            return self.embed.attend(self.embed(ids))

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(7, 5)

        def forward(self, ids):
            return self.embed(ids) @ self.embed.weight.T

    report = compare(Flax(nnx.Rngs(0)), Torch(), np.array([[1, 3, 3], [0, 6, 2]]))
    report.assert_passed()
    assert [r.name for r in report.select("float64")] == ["output", "embed.weight"]


# Whose weights.


def test_either_side_gives_the_weights():
    flax, theirs, x = linear(), torch.nn.Linear(5, 3), draw(2, 5)
    for weights in ("torch", "flax"):
        compare(flax, theirs, x, weights=weights, lanes=EXACT).assert_passed()
    assert not compare(flax, theirs, x, weights=None, lanes=EXACT).passed
    theirs.load_state_dict({"weight": torch.tensor(np.asarray(flax.kernel[...].T)), "bias": torch.zeros(3)})
    compare(flax, theirs, x, weights=None, lanes=EXACT).assert_passed()


def test_weights_that_do_not_fit_are_told_before_any_computing():
    with pytest.raises(StateDictError, match="missing: bias"):
        compare(linear(), torch.nn.Linear(5, 3, bias=False), draw(2, 5))
    with pytest.raises(StateDictError, match="shape: weight"):
        compare(linear(), torch.nn.Linear(5, 4), draw(2, 5), weights="flax")


def test_names_carry_weights_and_gradients():
    flax = nnx.Dict(first=linear())
    theirs = torch.nn.ModuleDict({"other": torch.nn.Linear(5, 3)})
    report = compare(
        flax, theirs, draw(2, 5), lanes=EXACT, names=[("first", "other")],
        call_flax=lambda module, x: module["first"](x), call_torch=lambda module, x: module["other"](x),
    )  # fmt: skip
    report.assert_passed()
    assert {r.name for r in report.select(kind="gradient")} == {"other.weight", "other.bias", "input 0"}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match='weights must be "torch", "flax" or None'):
        compare(linear(), torch.nn.Linear(5, 3), draw(2, 5), weights="both")
    with pytest.raises(ValueError, match=r"lanes must be some of float64, .*got float16"):
        compare(linear(), torch.nn.Linear(5, 3), draw(2, 5), lanes=("float16",))


def test_weights_without_a_counterpart_are_left_out_by_name():
    flax = nnx.Dict(ours=linear())
    theirs = torch.nn.ModuleDict({"theirs": torch.nn.Linear(5, 3)})
    with torch.no_grad():
        theirs["theirs"].weight.copy_(torch.tensor(np.asarray(flax["ours"].kernel[...].T)))
        theirs["theirs"].bias.zero_()
    report = compare(
        flax, theirs, draw(2, 5), lanes=EXACT, weights=None,
        call_flax=lambda module, x: module["ours"](x), call_torch=lambda module, x: module["theirs"](x),
    )  # fmt: skip
    # Outputs agree, and no gradient of a weight was compared: that is no pass.
    assert [(r.name, r.passed) for r in report.results] == [
        ("output", True), ("input 0", True), ("(all)", False)
    ]  # fmt: skip
    assert "no gradient of a parameter was compared in float64" in str(report).splitlines()[0]
    told = {(e.name, e.reason) for e in report.left_out if e.name != "first divergence"}
    assert told == {
        ("theirs.weight", "gradient: no counterpart in flax"),
        ("theirs.bias", "gradient: no counterpart in flax"),
        ("ours.weight", "gradient: no counterpart in torch"),
        ("ours.bias", "gradient: no counterpart in torch"),
    }
    assert "no counterpart in torch" in str(report)
    without = compare(
        flax, theirs, draw(2, 5), lanes=EXACT, weights=None, gradients=False,
        call_flax=lambda module, x: module["ours"](x), call_torch=lambda module, x: module["theirs"](x),
    )  # fmt: skip
    without.assert_passed()
    assert "without gradients" in str(without).splitlines()[0]


# What trains, and what is a constant.


class Scaled(nnx.Module):
    def __init__(self, variable):
        self.factor = variable

    def __call__(self, x):
        return x * self.factor[...]


class TorchScaled(torch.nn.Module):
    def __init__(self, parameter: bool, requires_grad: bool = True):
        super().__init__()
        if parameter:
            self.factor = torch.nn.Parameter(torch.ones(3), requires_grad=requires_grad)
        else:
            self.register_buffer("factor", torch.ones(3))

    def forward(self, x):
        return x * self.factor


def test_a_weight_that_learns_on_one_side_alone_is_a_difference():
    x = draw(2, 3)
    learns, constant = Scaled(nnx.Param(jnp.ones(3))), Scaled(Buffer(jnp.ones(3)))
    compare(learns, TorchScaled(True), x, lanes=EXACT).assert_passed()
    compare(constant, TorchScaled(False), x, lanes=EXACT).assert_passed()
    compare(learns, TorchScaled(True, requires_grad=False), x, lanes=EXACT).assert_passed()
    frozen = compare(constant, TorchScaled(True, requires_grad=False), x, lanes=EXACT)
    frozen.assert_passed()
    assert "constant on both sides" in frozen.left_out[0].reason
    for flax, theirs, message in (
        (learns, TorchScaled(False), "a buffer in torch, a parameter in flax"),
        (constant, TorchScaled(True), "a parameter in torch, a constant in flax"),
        (Scaled(nnx.Variable(jnp.ones(3))), TorchScaled(True), UNTRAINED),
    ):
        failure = compare(flax, theirs, x, lanes=EXACT).failures[0]
        assert (failure.name, failure.detail) == ("factor", message)


# Outputs of every structure.


class Nothing(nnx.Module):
    """Returns what a function makes of the input."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class TorchNothing(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def compare_functions(flax, theirs, *inputs, lanes=EXACT, **options):
    return compare(Nothing(flax), TorchNothing(theirs), *inputs, lanes=lanes, **options)


class Named(NamedTuple):
    a: object
    b: object


@dataclass
class Data:
    a: object
    b: object
    c: object = None


@pytest.mark.parametrize(
    ("flax", "theirs", "names"),
    [
        (lambda x: (x, 2 * x), lambda x: [x, 2 * x], ["0", "1"]),
        (lambda x: Named(x, 2 * x), lambda x: (x, 2 * x), ["0", "1"]),
        (lambda x: (x, 2 * x), lambda x: Named(x, 2 * x), ["a", "b"]),
        (lambda x: Data(x, 2 * x), lambda x: {"b": 2 * x, "a": x, "c": None}, ["b", "a"]),
        (lambda x: {"a": (x, {"c": x})}, lambda x: {"a": (x, {"c": x})}, ["a.0", "a.1.c"]),
        (lambda x: (x, None), lambda x: (x, None), ["0"]),
        (lambda x: (x, 3, True), lambda x: (x, 3, True), ["0", "1", "2"]),
        (lambda x: (x, x.argmax(-1)), lambda x: (x, x.argmax(-1)), ["0", "1"]),
    ],
)
def test_outputs_of_any_structure(flax, theirs, names):
    report = compare_functions(flax, theirs, draw(2, 3))
    report.assert_passed()
    assert [r.name for r in report.select(kind="output")] == names


def test_outputs_of_transformers():
    from transformers.modeling_outputs import BaseModelOutput

    report = compare_functions(
        lambda x: Data(x, 2 * x),
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, 2 * x)),
        draw(2, 3),
    )
    assert not report.passed
    assert "2 values (last_hidden_state, hidden_states), flax 2 values (a, b)" in report.failures[0].detail
    report = compare_functions(
        lambda x: {"hidden_states": (x, 2 * x), "last_hidden_state": x},
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, 2 * x)),
        draw(2, 3),
    )
    report.assert_passed()


@pytest.mark.parametrize(
    ("flax", "theirs", "message"),
    [
        (lambda x: x, lambda x: (x, x), "torch gives 2 values, flax a float tensor of shape (2, 3)"),
        (lambda x: (x,), lambda x: (x, x), "torch gives 2 values, flax 1 value"),
        (lambda x: x.T, lambda x: x, "a float tensor of shape (2, 3), flax a float tensor of shape (3, 2)"),
        (lambda x: x[:1], lambda x: x, "a float tensor of shape (2, 3), flax a float tensor of shape (1, 3)"),
        (lambda x: x > 0, lambda x: x, "torch gives a float tensor of shape (2, 3), flax a boolean"),
        (lambda x: None, lambda x: x, "torch gives a float tensor of shape (2, 3), flax None"),
        (lambda x: {"a": x}, lambda x: {"b": x}, "torch gives 1 value (b), flax 1 value (a)"),
        (lambda x: "text", lambda x: x, "an output of type str cannot be compared"),
    ],
)
def test_outputs_that_cannot_be_paired(flax, theirs, message):
    report = compare_functions(flax, theirs, draw(2, 3))
    assert not report.passed
    assert message in report.failures[0].detail
    assert not [r for r in report.results if r.passed]


def test_integers_and_booleans_must_be_equal():
    x = draw(2, 3)
    report = compare_functions(lambda x: (x, x.argmax(0)), lambda x: (x, x.argmin(0)), x)
    failure = report.failures[0]
    assert (failure.name, failure.bound) == ("1", 0.0)
    # In the noisy lanes a tie may fall either way: they are left out, and the report says so.
    noisy = compare_functions(lambda x: (x, x > 0), lambda x: (x, x > 0), x, lanes=("bfloat16",))
    noisy.assert_passed()
    assert noisy.left_out[0].reason == "boolean: compared in float64 alone"


def test_nothing_to_compare_is_no_pass():
    for nothing in (lambda x: None, lambda x: ()):
        report = compare_functions(nothing, nothing, draw(2, 3), lanes=("float64", "bfloat16"))
        assert not report.passed
        assert "nothing to compare" in report.failures[0].detail


def test_nan_never_passes():
    x = draw(2, 3)
    for lane in ("float64", "float32"):
        both = compare_functions(lambda x: x * jnp.nan, lambda x: x * torch.nan, x, lanes=(lane,))
        assert not both.passed
        assert "NaN in 6 of 6 values of flax and 6 of 6 values of torch" in both.failures[0].detail
        one = compare_functions(lambda x: jnp.where(x > 0, x, jnp.nan), lambda x: x, x, lanes=(lane,))
        assert "of flax" in one.failures[0].detail
        assert "of torch" not in one.failures[0].detail
    gradient = compare_functions(lambda x: jnp.sqrt(x * 0), lambda x: x * 0, x, lanes=EXACT)
    assert [(r.kind, r.passed) for r in gradient.results] == [("output", True), ("input gradient", False)]


def test_infinities_must_be_the_same():
    def shifted(x):
        return x + np.where(np.arange(3) == 1, -np.inf, 0.0)

    x = draw(2, 3)
    compare_functions(shifted, lambda x: x + torch.tensor([0, -torch.inf, 0]), x).assert_passed()
    for other in (torch.inf, 0.0, 1e300):
        report = compare_functions(shifted, lambda x, other=other: x + torch.tensor([0, other, 0]), x)
        assert not report.passed
    # An infinity that agrees must not hide an error beside it.
    report = compare_functions(shifted, lambda x: x + torch.tensor([1e-6, -torch.inf, 0]), x)
    assert not report.passed


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


# Numbers of all sizes.


@pytest.mark.parametrize("fill", ["finfo.min", -1e30, -1e9])
def test_a_mask_in_the_output_hides_nothing_and_fails_nothing(fill):
    mask = np.zeros((3, 5), bool)
    mask[0, 2] = True

    def ours(x, mask, error=0.0):
        return jnp.where(mask, jnp.finfo(x.dtype).min if fill == "finfo.min" else fill, x * x + error)

    def theirs(x, mask):
        return (x * x).masked_fill(mask, torch.finfo(x.dtype).min if fill == "finfo.min" else fill)

    lanes = ("float64", "float32", "bfloat16")
    compare_functions(ours, theirs, draw(3, 5), mask, lanes=lanes).assert_passed()
    wrong = compare_functions(lambda x, mask: ours(x, mask, 0.5), theirs, draw(3, 5), mask, lanes=lanes)
    assert {(r.lane, r.kind) for r in wrong.failures} == {(lane, "output") for lane in lanes}


def test_a_huge_gradient_hides_no_other():
    x = np.abs(draw(4, 6))
    x[0, 0] = 1e-30
    for lane in ("float64", "float32"):
        report = compare_functions(lambda x: jnp.sqrt(x) + x, lambda x: x.sqrt() + x, x, lanes=(lane,))
        report.assert_passed()
        cut = compare_functions(
            lambda x: jnp.sqrt(x) + jax.lax.stop_gradient(x), lambda x: x.sqrt() + x, x, lanes=(lane,)
        )
        assert [(r.kind, r.name) for r in cut.failures] == [("input gradient", "input 0")]


def test_what_is_left_of_large_numbers_that_cancel_is_known_no_better():
    """Sums in another order: 1e9 - 1e9 + 0.3 leaves the rounding errors of 1e9."""
    x = np.concatenate([1e9 * draw(3, 4), draw(3, 4, seed=1)], axis=1)
    signs = np.repeat([1.0, -1.0], 8)[:, None] * np.tile(np.eye(8), (2, 1))

    def ours(x):
        y = jnp.concatenate([x, x * 1.1], 1) @ signs
        return jnp.concatenate([x[:, :4], y[:, :4] + 0.1 * x[:, :4] + x[:, 4:]], 1)

    def theirs(x):
        return torch.cat([x[:, :4], x[:, 4:] + x[:, :4] - x[:, :4]], 1)

    report = compare_functions(ours, theirs, x)
    report.assert_passed()
    assert not compare_functions(lambda x: ours(x) + 1e-3, theirs, x).passed


def test_large_integers_are_compared_as_integers():
    x = np.arange(1, 7) * 10**17 + 1
    report = compare_functions(lambda x: x + 1, lambda x: x, x)
    assert report.failures[0].detail == f"at [0]: flax {10**17 + 2}, torch {10**17 + 1}"


def test_an_output_below_the_bound_is_told():
    """The bound is absolute below 1: there float64 says nothing, and the noise does."""
    lanes = ("float64", "float32")
    report = compare_functions(lambda x: x * x * 1e-14, lambda x: x * 1e-14, draw(2, 3), lanes=lanes)
    assert {r.lane for r in report.failures} == {"float32"}
    entry, _ = report.left_out  # and there is no submodule to blame
    assert (entry.lane, entry.name) == ("float64", "output")
    assert "all its values are below the bound 1e-12" in entry.reason
    # Zeros are no small numbers.
    assert not compare_functions(lambda x: (x, 0 * x), lambda x: (x, 0 * x), draw(2, 3)).left_out


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
