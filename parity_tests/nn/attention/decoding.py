"""Decoding with a cache gives what the whole sequence gives at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity_tests.from_scratch.properties import assert_same, compiled

REAL = np.arange(4) >= np.array([[0], [2]])  # the second sequence has two tokens of padding on its left


def decoded(module: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    """A prefill of `(2, t, d)` in two chunks, then one token after another in a scan: outputs, and the cache."""

    def step(cache, token):
        output, cache = module(token[:, None], cache=cache)
        return cache, output[:, 0]

    first, cache = module(x[:, :4], mask=jnp.asarray(REAL), cache=module.init_cache(2, 11))
    second, cache = module(x[:, 4:6], cache=cache)
    cache, others = jax.lax.scan(step, cache, x[:, 6:].swapaxes(0, 1))
    return jnp.concatenate([first, second, others.swapaxes(0, 1)], axis=1), cache


def assert_decodes_as_at_once(module: Any, x: jax.Array) -> None:
    """What is `decoded` of `x` `(2, 9, d)`: outputs and weights of the full forward."""

    @compiled
    def decode(x):
        outputs, cache = decoded(module, x[:, :-1])
        last, weights, cache = module(x[:, -1:], cache=cache, return_weights=True)
        return jnp.concatenate([outputs, last], axis=1), weights, cache

    outputs, weights, cache = decode(x)
    assert cache.length.tolist() == [9, 7]
    for row, start in enumerate((0, 2)):
        expected, of_all = compiled(lambda x: module(x, return_weights=True))(x[row : row + 1, start:])
        assert_same(outputs[row : row + 1, start:], expected)
        if cache.rolling:  # slots are no positions there
            continue
        assert_same(weights[row, :, 0, : 9 - start], of_all[0, :, -1])
        assert not weights[row, :, 0, 9 - start :].any()
