"""Each benchmark on small shapes: every contender takes part and agrees. Speed is not tested here."""

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention

from benchmarks import attention, flex, ladder
from benchmarks import products as products_module
from benchmarks.cached import bench_cached
from benchmarks.cases import CASES, Case, Shape
from parity_tests.contract import assert_close


@pytest.mark.parametrize(
    ("dtype", "mask"),
    [
        ("float32", "causal"),
        ("bfloat16", "padded"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("float32", "full"),
                ("float32", "padded"),
                ("bfloat16", "full"),
                ("bfloat16", "causal"),
            )
        ),
    ],
)
def test_attention_with_and_without_gradients(mask, dtype):
    cases = [Case(Shape(2, 37, 3, 8), backward, mask=mask, dtype=dtype) for backward in (False, True)]
    forward, backward = attention.bench_attention(cases, rounds=1)
    assert forward.case == f"B2 N3 T37 H8 {mask} {dtype}, forward"
    for comparison in (forward, backward):
        assert tuple(comparison.timings) == attention.NAMES
        assert set(comparison.temporaries) == {"jax-attn", "jax.nn", "products alone"}


def test_attention_of_one_query_among_many_keys():
    (comparison,) = attention.bench_attention([Case(Shape(3, 1, 2, 8), keys=41, mask="full")], rounds=1)
    assert tuple(comparison.timings) == attention.NAMES
    assert (comparison.facts["tokens"], comparison.facts["keys"]) == (1, 41)


def test_a_cached_token_is_the_same_on_both_sides():
    found = list(bench_cached([Shape(2, 7, 3, 4)], places=(1, 6), rounds=1))
    assert [comparison.facts["in_cache"] for comparison in found] == [1, 6]
    assert all(set(comparison.timings) == {"Flax, jitted", "torch, eager"} for comparison in found)


def test_every_row_of_the_table_is_a_call_that_can_be_made():
    for cases in CASES.values():
        assert len(set(map(str, cases))) == len(cases)
        for case in cases:
            assert case.mask in ("full", "causal", "padded")
            assert case.num_keys >= case.shape.tokens


@pytest.mark.parametrize("causal", [True, False])
def test_the_products_are_those_of_attention_without_the_rest(causal, monkeypatch):
    rows, columns, tokens = 12, 4, 36
    monkeypatch.setattr(products_module, "ROWS", rows)
    monkeypatch.setattr(products_module, "COLUMNS", columns)
    rng = np.random.default_rng(0)
    d, q, k, v = (rng.standard_normal((2, tokens, 1, 5)).astype(np.float32) for _ in range(4))
    tiles = np.arange(tokens) // columns  # whole tiles are left out, single positions are not
    seen = (tiles[:, None] >= tiles) | (not causal)
    scores = np.einsum("bqnh,bknh->bqk", q, k) * seen
    found = products_module.products_and_gradients(d, q, k, v, causal=causal)
    output, d_q = (np.asarray(x).reshape(2, tokens, 5) for x in found[:2])
    d_k, d_v = (np.asarray(x).swapaxes(2, 3).reshape(2, tokens, 5) for x in found[2:])
    d_scores = np.einsum("bqnh,bknh->bqk", d, v) * seen
    for found, expected in (
        (output, scores @ v[:, :, 0]),
        (d_q, d_scores @ k[:, :, 0]),
        (d_k, d_scores.swapaxes(1, 2) @ q[:, :, 0]),
        (d_v, scores.swapaxes(1, 2) @ d[:, :, 0]),
    ):
        assert_close([found], [expected])


@pytest.mark.slow  # the test below runs all that this one does
def test_flex_without_torchs_compiler():
    comparisons = list(flex.bench_flex(Shape(1, 530, 3, 8), compile_torch=False, rounds=1))
    assert len(comparisons) == 4
    assert [set(comparison.timings) for comparison in comparisons] == [
        {flex.FLEX, flex.DOT_PRODUCT},
        {flex.FLEX},
        {flex.FLEX},
        {flex.FLEX, flex.WHOLE},
    ]
    assert "T1060" in comparisons[-1].case


@pytest.mark.slow
def test_torchs_flex_eager_agrees_and_without_a_compiler_says_why(monkeypatch):
    # The same mathematics, not compiled: that takes a minute.
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    comparisons = list(flex.bench_flex(Shape(1, 530, 3, 8), rounds=1))
    assert [comparison.left_out for comparison in comparisons] == [{}] * 4

    def no_compiler(function):
        raise RuntimeError("no C++ compiler\nin the path")

    monkeypatch.setattr(torch, "compile", no_compiler)
    comparison = next(flex.bench_flex(Shape(1, 37, 3, 8), rounds=1))
    assert comparison.left_out == {flex.TORCH: "RuntimeError: no C++ compiler"}


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_variants_of_the_ladder_agree_with_their_twins(step):
    """Every fourth; all of them among the slow tests."""
    variants = ladder.VARIANTS[::step]
    comparisons = list(ladder.bench_ladder(Shape(2, 11, 2, 8), rounds=1, variants=variants))
    assert len(comparisons) == 2 * len(variants)
    for comparison in comparisons:
        assert tuple(comparison.timings) == ladder.NAMES
