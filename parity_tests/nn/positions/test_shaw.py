import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.shaw import ShawPositions
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestShawPositions(TwinContract):
    rows = ("positions-shaw", "positions-shaw-keys")


@pytest.mark.parametrize("values", [True, False])
@jax.enable_x64(True)
def test_the_equations_of_the_paper(values):
    """Equations 3 and 4, token by token, in NumPy."""
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    module = MultiHeadAttention(
        10, 2, bias=False, positions=ShawPositions(5, 2, values, **options), **options
    )
    x = draw(1, 7, 10)
    q, k, v = (
        np.asarray(x[0] @ getattr(module, f"{name}_proj").kernel[...]).reshape(7, 2, 5) for name in "qkv"
    )
    positions = module.positions
    a_k = np.asarray(positions.key_table.embedding[...])
    a_v = np.asarray(positions.value_table.embedding[...]) if values else np.zeros((5, 5))
    z = np.zeros((7, 2, 5))
    for head in range(2):
        for i in range(7):
            rows = [min(max(j - i, -2), 2) + 2 for j in range(7)]
            e = np.array([q[i, head] @ (k[j, head] + a_k[rows[j]]) / np.sqrt(5) for j in range(7)])
            alpha = np.exp(e) / np.exp(e).sum()
            z[i, head] = sum(alpha[j] * (v[j, head] + a_v[rows[j]]) for j in range(7))
    assert_same(compiled(module)(x)[0], z.reshape(7, 10) @ np.asarray(module.out_proj.kernel[...]))


def test_bad_sizes_are_refused():
    for sizes, message in {
        (0, 2): "head_dim must be at least 1, got head_dim=0",
        (5, 0): "max_distance must be at least 1, got max_distance=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            ShawPositions(*sizes, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="positions are for heads of width 5, the attention has 13"):
        MultiHeadAttention(26, 2, positions=ShawPositions(5, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
