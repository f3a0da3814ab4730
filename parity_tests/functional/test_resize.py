import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_attn.functional.resize import resize_bicubic
from jax_attn.parity.tolerances import MODULE


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (3, 4), (11, 16), (2, 13), (1, 1)])
@jax.enable_x64(True)
def test_torch_computes_the_same(size, antialias):
    grid = np.random.default_rng(0).standard_normal((5, 7, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid).permute(2, 0, 1)[None],
        size,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    actual = resize_bicubic(jnp.asarray(grid), size, antialias)
    assert np.max(np.abs(actual - expected[0].permute(1, 2, 0).numpy())) <= MODULE


def test_what_is_of_the_size_stays_as_it_is():
    grid = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7, 3)), jnp.float32)
    for antialias in (False, True):
        np.testing.assert_array_equal(resize_bicubic(grid, (5, 7), antialias), grid)
