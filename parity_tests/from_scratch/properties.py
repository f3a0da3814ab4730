"""What attention does whatever its weights are: assertions over a module and an input, in float64."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.tolerances import MODULE

Function = Callable[[jax.Array], jax.Array]

# Every new shape is compiled anew.
few = settings(max_examples=4)
batches = st.sampled_from([1, 2, 3])
lengths = st.sampled_from([1, 2, 5, 7])
seeds = st.integers(0, 2**16)
# `test(batch, tokens)` in one shape that no two axes share, and in odd ones among the slow tests.
in_shapes = pytest.mark.parametrize(
    ("batch", "tokens"),
    [(3, 5), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((1, 1), (1, 7), (2, 2), (3, 1)))],
)


def draw(*shape: int, seed: int = 0) -> jax.Array:
    """Numbers from N(0, 1), the same for every framework and version."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under `jax.jit`, compiled quickly: once for each shape, and not for each operation.

    It returns NumPy's arrays: what a test does with them compiles nothing.
    """
    run = jax.jit(lambda *arrays: function(*arrays), compiler_options=quick_options())
    return lambda *arrays: jax.tree.map(np.asarray, run(*arrays))


def assert_same(actual, expected) -> None:
    """Equal up to the rounding of float64."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    error = np.max(np.abs(actual - expected), initial=0) / max(1, np.max(np.abs(expected), initial=0))
    assert error <= MODULE, f"{error:.1e}"


def assert_permutation_equivariant(module: Function, x: jax.Array) -> None:
    """Tokens in another order give the same outputs in that order: attention alone knows no positions."""
    module, x = compiled(module), np.asarray(x)
    order = np.random.default_rng(5).permutation(x.shape[-2])
    assert_same(module(x[..., order, :]), module(x)[..., order, :])


def assert_batch_independent(module: Function, x: jax.Array) -> np.ndarray:
    """A sequence gives the same output alone, without a batch axis, as among others; returns the outputs."""
    module, x = compiled(module), np.asarray(x)
    together = module(x)
    for i, sequence in enumerate(x):
        assert_same(module(sequence), together[i])
    return together


def assert_causal(module: Function, x: jax.Array) -> None:
    """Neither a change of later tokens nor their absence changes an output; earlier tokens do."""
    module, x = compiled(module), np.asarray(x)
    before = module(x)
    tokens = np.arange(x.shape[-2])[:, None]
    cut = x.shape[-2] // 2
    assert 0 < cut < x.shape[-2]

    later_changed = module(x + (tokens >= cut))
    assert_same(later_changed[..., :cut, :], before[..., :cut, :])
    assert_same(module(x[..., :cut, :]), before[..., :cut, :])

    first_changed = module(x + (tokens == 0))
    assert np.abs(first_changed - before).max(axis=-1).min() > 1e-6


def causal_mask(batch: int, tokens: int) -> jax.Array:
    """`(batch, tokens, tokens)`, True where a token may attend."""
    return jnp.broadcast_to(jnp.tril(jnp.ones((tokens, tokens), bool)), (batch, tokens, tokens))


def assert_mask_decides(module: Callable[..., jax.Array], x: jax.Array) -> None:
    """A mask of keys or pairs hides what it says, and nothing else; `module(x, mask)`, `x` is `(3, 5, d)`."""
    module, x = compiled(module), np.asarray(x)
    keys = np.arange(5) < np.array([[5], [3], [1]])
    pairs = np.broadcast_to(keys[:, None, :], (3, 5, 5))
    output = module(x, keys)
    assert_same(module(x, pairs), output)
    assert_same(module(x, np.ones((3, 5), bool)), module(x))

    # What is hidden may hold anything: the tokens that are not padding come out the same.
    other = np.where(keys[..., None], x, 1e3)
    assert_same(module(other, keys)[keys], output[keys])
    # A sequence cut to its length needs no mask, and one without a batch axis takes its own.
    assert_same(module(x[1, :3]), output[1, :3])
    assert_same(module(x[1], keys[1]), output[1])
    assert_same(module(x[1], pairs[1]), output[1])


def assert_nothing_to_attend_to_gives(module: Callable[..., jax.Array], x: jax.Array, expected) -> None:
    """Rows that the mask hides whole give `expected` and gradients of 0; `x` is `(3, 5, d)`."""

    @compiled
    def run(x, mask, cotangent):
        output, pull = jax.vjp(lambda x: module(x, mask), x)
        return output, pull(cotangent)[0]

    keys, pairs = np.ones((3, 5), bool), np.ones((3, 5, 5), bool)
    keys[2], pairs[0, 1] = False, False
    ones = np.ones(jax.eval_shape(module, x).shape)
    for mask, row in ((keys, (2, slice(None))), (pairs, (0, 1))):
        output, gradient = run(x, mask, ones)
        assert_same(output[row], np.broadcast_to(expected, output[row].shape))
        assert np.isfinite(gradient).all()
        alone = np.zeros_like(ones)
        alone[row] = 1.0
        _, gradient = run(x, mask, alone)
        assert_same(gradient, np.zeros(x.shape))


def assert_bad_masks_are_refused(module: Callable[..., jax.Array], x: jax.Array, name: str) -> None:
    """Wrong shapes and dtypes are told before any computing; `x` is `(3, 5, d)`."""
    for shape in ((5,), (5, 5), (3, 1), (3, 5, 1), (1, 5, 5), (3, 2, 5, 5)):
        message = rf"{name} must have shape \(3, 5\) or \(3, 5, 5\), got {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=message):
            module(x, jnp.ones(shape, bool))
    with pytest.raises(ValueError, match=rf"{name} must have shape \(5,\) or \(5, 5\), got \(3, 5\)"):
        module(x[0], jnp.ones((3, 5), bool))
    for dtype in (jnp.int32, jnp.float32):
        message = f"{name} must be a boolean array, True = attend, got {jnp.dtype(dtype)}"
        with pytest.raises(ValueError, match=message):
            module(x, jnp.ones((3, 5), dtype))
    with pytest.raises(ValueError, match=f"{name} must be a boolean array, True = attend, got list"):
        module(x, [[True] * 5] * 3)
