"""What the kernels of a chip must do; each chip's tests subclass this. They run in interpret mode here.

Sizes are primes and all different, and a block is small, so that every call has padding on both sides and
empty, partial and full blocks. The oracle is `reference_attention`, and float64 is held to 1e-12.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.block_mask import BlockMask, and_masks, create_block_mask
from jax_attn.functional.kernels.fused import Kernels, fused_attention
from jax_attn.functional.kernels.visits import MaskTerms
from jax_attn.functional.reference import reference_attention
from jax_attn.parity import tolerances
from parity_tests.functional.attention_contract import assert_equal

B, T, S, N, K, H, HV = 2, 29, 37, 4, 2, 5, 7
BLOCK = 16
DRAW = np.random.default_rng(0)
DOCUMENTS = tuple(jnp.asarray(np.sort(DRAW.integers(0, 3, (B, n)))) for n in (T, S))


def _by_position(learned: dict[str, Any], query: Any) -> score_mods.ScoreMod:
    """Lookups by head, by distance, and by query and distance; a curve on top."""
    alibi = score_mods.alibi(learned["slopes"])
    relative = score_mods.relative_bias(learned["distances"])
    shaw = score_mods.shaw(query, learned["vectors"])
    capped = score_mods.softcap(3.0)

    def score_mod(score: Any, *place: Any) -> Any:
        return capped(shaw(relative(alibi(score, *place), *place), *place), *place)

    return score_mod


def _by_pair(learned: dict[str, Any], query: Any) -> score_mods.ScoreMod:
    """Tables of pairs of positions, for each head and for all; T5's buckets; one number; one for each key."""
    of_heads, of_all = score_mods.learned_bias(learned["heads"]), score_mods.learned_bias(learned["all"])
    t5 = score_mods.t5_bias(learned["buckets"])

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        place = (b, h, q_idx, kv_idx)
        score = t5(of_all(of_heads(score, *place), *place), *place)
        return score * learned["factor"] + learned["keys"][b, kv_idx // 2]

    return score_mod


Make = Callable[[dict[str, Any], Any], score_mods.ScoreMod]
# name: what makes the score mod, the shapes of what it learns, the mask mod
CALLS: dict[str, tuple[Make | None, dict[str, tuple[int, ...]], Any]] = {
    "plain": (None, {}, None),
    "by position": (
        _by_position,
        {"slopes": (N,), "distances": (N, 9), "vectors": (11, H)},
        and_masks(mask_mods.causal, mask_mods.document(*DOCUMENTS)),
    ),
    "by pair, and rows that may attend to nothing": (
        _by_pair,
        {"heads": (N, T, S), "all": (T, S), "buckets": (32, N), "factor": (), "keys": (B, S)},
        and_masks(mask_mods.sliding_window(23), mask_mods.padding(jnp.array([0, 31]))),
    ),
    "tables in the mask": (None, {}, mask_mods.bigbird(jax.random.key(3), 40, 8, num_random=1)),
}


def operands(dtype: Any, rounded_to: Any = None) -> tuple[jax.Array, ...]:
    generator = np.random.default_rng(1)
    shapes = [(B, T, N, H), (B, S, K, H), (B, S, K, HV)]
    drawn = (jnp.asarray(generator.standard_normal(shape), rounded_to or dtype) for shape in shapes)
    return tuple(x.astype(dtype) for x in drawn)


def everything(attend: Callable[..., Any], name: str, dtype: Any, rounded_to: Any = None) -> dict[str, Any]:
    """Output, log-sum-exp, maximum, and the gradients of all that is differentiable."""
    make, shapes, _ = CALLS[name]
    generator = np.random.default_rng(2)
    lse_dtype = jnp.promote_types(dtype, jnp.float32)
    d_output = jnp.asarray(generator.standard_normal((B, T, N, HV)), jnp.float32).astype(lse_dtype)
    d_lse = jnp.asarray(generator.standard_normal((B, T, N)), jnp.float32).astype(lse_dtype)
    drawn = {part: generator.standard_normal(shape) for part, shape in shapes.items()}
    learned = {part: jnp.asarray(x, rounded_to or dtype).astype(dtype) for part, x in drawn.items()}

    def loss(q: Any, k: Any, v: Any, learned: Any) -> tuple[Any, Any]:
        result = attend(q, k, v, None if make is None else make(learned, q))
        finite = jnp.where(jnp.isfinite(result.lse), result.lse, 0)
        total = (result.output.astype(lse_dtype) * d_output).sum() + (finite * d_lse).sum()
        return total, (result.output, result.lse, result.max_scores)

    # Compiling takes most of the time, and nothing here is timed.
    quick = {"xla_backend_optimization_level": 0}
    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True), compiler_options=quick)
    (dq, dk, dv, d_learned), (output, lse, peak) = run(*operands(dtype, rounded_to), learned)
    rest = {f"d {part}": x for part, x in d_learned.items()}
    return {"output": output, "lse": lse, "max_scores": peak, "dq": dq, "dk": dk, "dv": dv, **rest}


def slow_unless(quick: bool, value: Any) -> Any:
    """A value to run a test with; among the slow tests unless `quick`."""
    return value if quick else pytest.param(value, marks=pytest.mark.slow)


def oracle(name: str) -> Callable[..., Any]:
    return lambda q, k, v, score_mod: reference_attention(
        q, k, v, score_mod=score_mod, mask_mod=CALLS[name][2]
    )


class KernelContract:
    """The promises; `kernels` are those under test."""

    implementation: ClassVar[Kernels]

    def attend(self, q: Any, k: Any, v: Any, score_mod: Any = None, block_mask: Any = None) -> Any:
        return fused_attention(
            self.implementation, q, k, v, score_mod, block_mask, interpret=True, block=(BLOCK, BLOCK)
        )

    def kernels(self, name: str) -> Callable[..., Any]:
        mask_mod = CALLS[name][2]
        mask = None if mask_mod is None else create_block_mask(mask_mod, B, None, T, S, BLOCK_SIZE=BLOCK)
        return lambda q, k, v, score_mod: self.attend(q, k, v, score_mod, mask)

    @pytest.mark.parametrize("name", [slow_unless(name.startswith("by pair"), name) for name in CALLS])
    def test_equals_the_oracle_in_float64_with_all_gradients(self, name: str):
        with jax.enable_x64(True):
            expected = everything(oracle(name), name, jnp.float64)
            assert expected["dq"].dtype == jnp.float64
            assert_equal(everything(self.kernels(name), name, jnp.float64), expected)

    @pytest.mark.parametrize("dtype", [slow_unless(False, dtype) for dtype in (jnp.float32, jnp.bfloat16)])
    def test_no_further_from_the_truth_than_the_oracle(self, dtype: Any):
        """The noise ratio, with the oracle in the same dtype in the denominator.

        By position, where the test above is by pair: wrong mathematics is far above any noise.
        """
        name = "by position"
        with jax.enable_x64(True):
            usual = everything(oracle(name), name, dtype)
            actual = everything(self.kernels(name), name, dtype)
            truth = everything(oracle(name), name, jnp.float64, rounded_to=dtype)
        for part, exact in truth.items():
            assert actual[part].dtype == usual[part].dtype, part
            want, got, other = _finite(exact), _finite(actual[part]), _finite(usual[part])
            floor = float(jnp.finfo(dtype).eps) * np.linalg.norm(want)
            ratio = np.linalg.norm(got - want) / max(np.linalg.norm(other - want), floor)
            assert ratio <= 2, f"{part}: {ratio}"

    def test_empty_blocks_are_not_looked_at_and_full_ones_do_not_ask_the_mask(self):
        """Keys of an empty block are NaN, and the mask would close the full block."""
        q, k, v = (jnp.ones((1, 2 * BLOCK, 1, H)),) * 3
        v = v * jnp.arange(2 * BLOCK)[:, None, None]
        lists = (jnp.zeros((1, 1, 2), jnp.int32), jnp.zeros((1, 1, 2, 2), jnp.int32))
        full = (jnp.ones((1, 1, 2), jnp.int32), jnp.array([[[[0, 1], [0, 1]]]], jnp.int32))
        mask = BlockMask.from_kv_blocks(
            *lists, *full, BLOCK_SIZE=BLOCK, mask_mod=lambda b, h, q_idx, kv_idx: q_idx < 0
        )
        poisoned = (q, k.at[:, BLOCK:].set(jnp.nan), v.at[:, BLOCK:].set(jnp.nan))
        run = jax.jit(jax.value_and_grad(lambda *x: self.attend(*x, None, mask).output.sum(), (0, 1, 2)))
        output, (dq, dk, dv) = run(*poisoned)
        assert jnp.allclose(output, 2 * BLOCK * H * (BLOCK - 1) / 2)
        assert jnp.isfinite(dq).all()
        assert (dk[:, BLOCK:] == 0).all()
        assert (dv[:, BLOCK:] == 0).all()

    def test_a_traced_block_mask_and_vmap(self):
        q, k, v = operands(jnp.float32)
        mask = create_block_mask(mask_mods.causal, None, None, T, S, BLOCK_SIZE=BLOCK)
        expected = reference_attention(q, k, v, mask_mod=mask_mods.causal).output

        @jax.jit
        def each(mask: BlockMask, *operands: Any) -> Any:
            def one(q: Any, k: Any, v: Any) -> Any:
                return self.attend(q[None], k[None], v[None], None, mask).output[0]

            return jax.vmap(one)(*operands)

        assert jnp.allclose(each(mask, q, k, v), expected, atol=tolerances.SAME_FLOAT32)

    @pytest.mark.parametrize("hidden", ["by lengths", slow_unless(False, "by a mask")])
    def test_what_nobody_sees_may_be_nan(self, hidden: str):
        q, k, v = operands(jnp.float32)
        seen = 19
        lengths = jnp.full(B, seen)
        array = jnp.broadcast_to(jnp.arange(S) < seen, (1, 1, T, S))
        terms = MaskTerms(key_value_seq_lengths=lengths) if hidden == "by lengths" else MaskTerms(mask=array)

        @jax.jit
        def run(k: Any, v: Any) -> Any:
            return jax.value_and_grad(lambda *x: (self.attend(*x, None, terms).output ** 2).sum(), (0, 1, 2))(
                q, k, v
            )

        expected, poisoned = run(k, v), run(*(x.at[:, seen:].set(jnp.nan) for x in (k, v)))
        for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(poisoned), strict=True):
            assert jnp.array_equal(got, want)

    def test_a_score_that_indexes_an_array_is_refused(self):
        q, k, v = operands(jnp.float32)
        table = jnp.arange(8.0)

        def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return table[score.astype(jnp.int32) % 8]

        with pytest.raises(ValueError, match="must not index an array by the score"):
            self.attend(q, k, v, score_mod)


def _finite(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return np.where(np.isfinite(x), x, 0)
