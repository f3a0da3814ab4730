"""A correct pair passes, every mistake is seen; whose weights are compared, and which of them train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.compare import UNTRAINED, compare, compare_cases
from jax_attn.weights import StateDictError
from parity_tests.parity.pairs import CASES, EXACT, draw, flax_block, linear, torch_block


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
