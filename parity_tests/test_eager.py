"""What `eager` spares JAX is the same to the last bit: under jit JAX does it by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HALF = np.arange(-3, 3, 0.75, dtype=np.float32).reshape(2, 4)
KEY = jax.random.key(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jnp.asarray(HALF),
        lambda: jnp.asarray(HALF).astype(jnp.bfloat16),
        lambda: jnp.full((2, 3), 1.5),
        lambda: jnp.arange(3, dtype=jnp.int32)[:, None].astype(jnp.float32),
        lambda: jnp.broadcast_to(jnp.asarray(HALF)[0], (3, 4)),
        lambda: jnp.asarray(HALF).reshape(4, 2),
        lambda: jnp.asarray(HALF)[None].squeeze(0),
        lambda: jnp.asarray(HALF).astype(jnp.int32),
        lambda: jax.random.uniform(KEY, (3, 5), minval=-0.3, maxval=0.3),
        lambda: jax.random.normal(KEY, (7, 11)),
        lambda: jax.random.truncated_normal(KEY, -2, 2, (2, 3), jnp.bfloat16),
    ],
)
def test_eager_is_compiled(make):
    spared, own = make(), jax.jit(make)()
    assert spared.dtype == own.dtype
    assert spared.weak_type == own.weak_type
    assert np.asarray(spared).tobytes() == np.asarray(own).tobytes()


def test_an_array_does_not_follow_numpys():
    given = np.zeros(64)
    taken = jnp.asarray(given)
    given += 1
    assert not np.asarray(taken).any()


def test_no_program_is_compiled_for_a_shape():
    from jax._src import compiler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "backend_compile_and_load", None)
        jnp.zeros((3, 41)), jnp.asarray(np.ones((41, 3)))
