"""Each benchmark on small shapes: every contender takes part and agrees. Speed is not tested here."""

import pytest
import torch
import torch.nn.attention.flex_attention

from benchmarks import attention, flex, ladder
from benchmarks.attention import Case, Shape


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_with_and_without_gradients(causal, dtype):
    shape = Shape(2, 37, 3, 8)
    cases = [Case(shape, backward=False), Case(shape, backward=True)]
    forward, backward = attention.bench_attention(cases, causal=causal, dtype=dtype, rounds=1)
    assert forward.case == f"B2 N3 T37 H8 {'causal' if causal else 'full'}, forward"
    for comparison in (forward, backward):
        assert tuple(comparison.timings) == attention.NAMES
        assert set(comparison.temporaries) == {"jax-attn", "jax.nn"}


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


def test_every_variant_of_the_ladder_agrees_with_its_twin():
    comparisons = list(ladder.bench_ladder(Shape(2, 11, 2, 8), rounds=1))
    assert len(comparisons) == 2 * len(ladder.VARIANTS)
    for comparison in comparisons:
        assert tuple(comparison.timings) == ladder.NAMES
