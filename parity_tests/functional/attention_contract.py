"""What every implementation of attention must do; each one's tests subclass this and say what it supports.

Sizes are primes and all different. The oracle is `reference_attention`, and float64 is held to 1e-12.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.attention import dot_product_attention

B, T, S, N, K, H, HV = 2, 37, 53, 6, 3, 5, 7
DRAW = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape)


SEGMENTS = (np.sort(DRAW.integers(0, 4, (B, T))), np.sort(DRAW.integers(0, 5, (B, S))))
OPEN_BUT_FIRST = np.arange(T)[:, None] >= 3  # the first three queries may attend to nothing

CLOSED_ROWS = {"mask": np.broadcast_to(OPEN_BUT_FIRST, (T, S)), "is_causal": True}
CALLS: dict[str, dict[str, Any]] = {
    "plain": {"scale": 0.3},
    "window": {"local_window_size": (4, 9), "bias": draw(B, N, T, S)},
    "causal window": {"local_window_size": 5, "is_causal": True, "bias": draw(B, 1, T, S)},
    "bias of keys": {"bias": draw(1, N, 1, S), "is_causal": True},
    "mask": {"mask": draw(B, N, T, S) > 0, "softcap": 1.3},
    "rows that may attend to nothing": CLOSED_ROWS,
    "lengths": {
        "query_seq_lengths": np.array([T, 11], np.int32),
        "key_value_seq_lengths": np.array([17, S], np.int32),
    },
    "segments, and an entry with no keys": {
        "segment_ids": SEGMENTS,
        "query_seq_lengths": np.array([T, 11], np.int32),
        "key_value_seq_lengths": np.array([0, S], np.int32),
        "scale": 0.3,
    },
    "softcap": {"softcap": 1.3, "bias": draw(T, S)},
    "sinks": {"sinks": draw(N), **CLOSED_ROWS},
}

# What other calls have among their terms too.
REPEATED = ("plain", "window", "rows that may attend to nothing", "lengths", "softcap")


def operands(dtype: Any, heads: tuple[int, int] = (N, K)) -> tuple[jax.Array, ...]:
    generator = np.random.default_rng(1)
    shapes = [(B, T, heads[0], H), (B, S, heads[1], H), (B, S, heads[1], HV)]
    return tuple(jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes)


def cast(call: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """The call with its floating arrays in `dtype`."""

    def one(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return jnp.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else jnp.asarray(x)
        return x

    return jax.tree.map(one, call)


def everything(implementation: str, q: Any, k: Any, v: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Output, log-sum-exp, and the gradients of all that is differentiable."""
    moving = {name: call[name] for name in ("bias", "sinks") if name in call}
    still = {name: x for name, x in call.items() if name not in moving}
    weights = np.random.default_rng(2)
    d_output = jnp.asarray(weights.standard_normal((*q.shape[:-1], v.shape[-1])), jnp.float32)
    d_lse = jnp.asarray(weights.standard_normal(q.shape[:-1]), jnp.float32)

    def loss(q: Any, k: Any, v: Any, moving: Any) -> tuple[Any, Any]:
        options = {**still, **moving, "implementation": implementation, "return_residual": True}
        output, lse = dot_product_attention(q, k, v, **options)
        finite = jnp.where(jnp.isfinite(lse), lse, 0)
        return (output.astype(d_output.dtype) * d_output).sum() + (finite * d_lse).sum(), (output, lse)

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (dq, dk, dv, d_moving), (output, lse) = run(q, k, v, moving)
    rest = {f"d{name}": x for name, x in d_moving.items()}
    return {"output": output, "lse": lse, "dq": dq, "dk": dk, "dv": dv, **rest}


def assert_equal(actual: dict[str, Any], expected: dict[str, Any], bound: float = 1e-12) -> None:
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        got, want = np.asarray(actual[name]), np.asarray(want)
        assert got.shape == want.shape, name
        assert np.array_equal(np.isneginf(got), np.isneginf(want)), name
        got, want = np.where(np.isneginf(want), 0, got), np.where(np.isneginf(want), 0, want)
        assert np.isfinite(got).all(), name
        error = np.abs(got - want).max() / max(1, np.abs(want).max())
        assert error <= bound, f"{name}: {error}"


@functools.cache
def oracle(name: str, dtype: Any = jnp.float64, exact: bool = False) -> dict[str, Any]:
    """What the oracle says, of operands in `dtype`; exact: computed in float64."""
    call, inputs = cast(CALLS[name], dtype), operands(dtype)
    if exact:
        call = jax.tree.map(lambda x: x.astype(jnp.float64) if _floating(x) else x, call)
        inputs = tuple(x.astype(jnp.float64) for x in inputs)
    return everything("reference", *inputs, call)


@contextmanager
def set_to(constants: Mapping[ModuleType, Mapping[str, Any]]) -> Iterator[None]:
    """Modules' names with other values, for a class of tests: what was compiled before is forgotten, and after."""
    with pytest.MonkeyPatch.context() as patch:
        for module, values in constants.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        jax.clear_caches()
        yield
    jax.clear_caches()


def slow_if(repeats: bool, value: Any) -> Any:
    """A value to run a test with, among the slow tests if it `repeats` what others show."""
    return pytest.param(value, marks=pytest.mark.slow) if repeats else value


class AttentionContract:
    """The promises; `implementation` is the one under test."""

    implementation: ClassVar[str]

    @pytest.mark.parametrize("name", [slow_if(name in REPEATED, name) for name in CALLS])
    def test_equals_the_oracle_in_float64_with_all_gradients(self, name: str):
        with jax.enable_x64(True):
            call = cast(CALLS[name], jnp.float64)
            actual = everything(self.implementation, *operands(jnp.float64), call)
            assert actual["output"].dtype == jnp.float64
            assert_equal(actual, oracle(name))

    @pytest.mark.parametrize("heads", [slow_if(True, (5, 5)), (5, 1)])
    def test_serves_multi_head_multi_query_and_grouped_heads(self, heads: tuple[int, int]):
        with jax.enable_x64(True):
            inputs = operands(jnp.float64, heads)
            call = {"is_causal": True}
            assert_equal(
                everything(self.implementation, *inputs, call), everything("reference", *inputs, call)
            )

    @pytest.mark.parametrize("shape", [(1, 29), slow_if(True, (31, 1)), (131, 257)])
    def test_serves_other_lengths(self, shape: tuple[int, int]):
        queries, keys = shape
        with jax.enable_x64(True):
            q, k, v = (jnp.asarray(draw(1, n, 2, 3)) for n in (queries, keys, keys))
            call = {"is_causal": True, "bias": jnp.asarray(draw(queries, keys))}
            assert_equal(
                everything(self.implementation, q, k, v, call), everything("reference", q, k, v, call)
            )

    @pytest.mark.parametrize(
        ("name", "dtype"),
        [
            ("causal window", jnp.float32),
            ("sinks", jnp.bfloat16),
            pytest.param("causal window", jnp.float16, marks=pytest.mark.slow),
        ],
    )
    def test_no_further_from_the_truth_than_the_oracle(self, name: str, dtype: Any):
        """The noise ratio, with the oracle in the same dtype in the denominator."""
        with jax.enable_x64(True):
            exact, usual = oracle(name, dtype, exact=True), oracle(name, dtype)
            actual = everything(self.implementation, *operands(dtype), cast(CALLS[name], dtype))
            for part, want in exact.items():
                assert actual[part].dtype == usual[part].dtype, part
                floor = float(jnp.finfo(usual[part].dtype).eps) * _norm(want)
                ratio = _norm(actual[part] - want) / max(_norm(usual[part] - want), floor)
                assert ratio <= 2, f"{part}: {ratio}"

    def test_does_not_see_what_stands_behind_the_padding(self):
        lengths = {"key_value_seq_lengths": jnp.array([17, 29], jnp.int32)}
        q, k, v = operands(jnp.float32)
        behind = (np.arange(S) >= np.array([[17], [29]]))[..., None, None]
        clean, poisoned = ([np.where(behind, np.float32(x), y) for y in (k, v)] for x in (0, 1e30))
        clean = everything(self.implementation, q, *clean, lengths)
        assert_equal(everything(self.implementation, q, *poisoned, lengths), clean, bound=1e-6)

    def test_row_that_may_attend_to_nothing_is_zero(self):
        q, k, v = operands(jnp.float32)
        result = everything(
            self.implementation, q, k, v, cast(CALLS["rows that may attend to nothing"], jnp.float32)
        )
        output, lse, dq = (np.asarray(result[name])[:, :3] for name in ("output", "lse", "dq"))
        assert (output == 0).all()
        assert (lse == -np.inf).all()
        assert (dq == 0).all()

    def test_second_derivative(self):
        with jax.enable_x64(True):
            q, k, v, bias = (
                jnp.asarray(draw(*shape)) for shape in [(1, 7, 2, 3), (1, 7, 2, 3), (1, 7, 2, 3), (7, 7)]
            )

            def hessian_norm(implementation: str) -> Any:
                def loss(*args: Any) -> Any:
                    return (
                        dot_product_attention(*args, is_causal=True, implementation=implementation) ** 2
                    ).sum()

                def gradient_norm(*args: Any) -> Any:
                    return sum((x**2).sum() for x in jax.grad(loss, argnums=(0, 1, 2, 3))(*args))

                run = jax.jit(jax.grad(gradient_norm, argnums=(0, 1, 2, 3)))
                return dict(enumerate(run(q, k, v, bias)))

            assert_equal(hessian_norm(self.implementation), hessian_norm("reference"))

    def test_vmap_and_no_batch_axis(self):
        def attend(*operands: Any) -> Any:
            return dot_product_attention(*operands, is_causal=True, implementation=self.implementation)

        whole, mapped = (jax.jit(f)(*operands(jnp.float32)) for f in (attend, jax.vmap(attend)))
        assert_equal({"output": mapped}, {"output": whole}, bound=1e-6)


class AnotherForm(AttentionContract):
    """The promises of another form of a computation whose rounding and second derivatives the first form shows."""

    @pytest.mark.slow
    def test_second_derivative(self):
        super().test_second_derivative()

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "dtype"), [("causal window", jnp.float32), ("sinks", jnp.bfloat16)])
    def test_no_further_from_the_truth_than_the_oracle(self, name: str, dtype: Any):
        super().test_no_further_from_the_truth_than_the_oracle(name, dtype)


def _floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _norm(x: Any) -> float:
    x = np.asarray(x, np.float64)
    return float(np.linalg.norm(np.where(np.isfinite(x), x, 0)))
