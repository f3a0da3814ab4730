"""The inverse by blocks beside NumPy's, with its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_attn.functional.delta_rule import chunked_gated_delta_rule
from jax_attn.functional.unit_lower import inverse_of_unit_lower


def expected(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.tril(matrix, -1) + np.eye(matrix.shape[-1]))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 61])
def test_equals_numpy_and_reads_only_below_the_diagonal(size: int) -> None:
    matrix = np.random.default_rng(size).uniform(-0.3, 0.3, (2, 3, size, size))
    with jax.enable_x64(True):
        inverse = inverse_of_unit_lower(jnp.asarray(matrix))
    np.testing.assert_allclose(inverse, expected(matrix), rtol=0, atol=1e-13)


def test_does_not_cancel_where_powers_would() -> None:
    """Ones below the diagonal: the powers reach 10^16, the inverse has ones and minus ones."""
    matrix = jnp.tril(jnp.ones((61, 61)))
    np.testing.assert_array_equal(inverse_of_unit_lower(matrix), np.eye(61) - np.eye(61, k=-1))


def test_derivatives_in_both_modes() -> None:
    matrix = np.random.default_rng(1).normal(size=(2, 5, 5))
    with jax.enable_x64(True):
        check_grads(lambda m: inverse_of_unit_lower(jnp.asarray(m)), (matrix,), order=2, atol=1e-7, rtol=1e-7)


def test_the_delta_rule_solves_nothing_by_lapack() -> None:
    """Two of its batched solves at once can wait for each other for ever on a CPU."""
    x, of_token = jnp.ones((2, 5, 3, 4)), jnp.ones((2, 5, 3))

    def loss(*operands: jax.Array) -> jax.Array:
        return chunked_gated_delta_rule(*operands)[0].sum()

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(x, x, x, -of_token, of_token)
    assert "triangular_solve" not in str(program)
    assert "dot_general" in str(program)
