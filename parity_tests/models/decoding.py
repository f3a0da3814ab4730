"""What a decoder does with a cache: assertions over a module, in float64."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from parity_tests.from_scratch.properties import assert_same, compiled

LENGTH, PIECES = 7, (4, 1, 2)
PADDED = 1, 2  # rows
IDS = np.random.default_rng(1).integers(31, size=(3, LENGTH))
WHERE = np.arange(LENGTH)
MASKS = {
    "none": np.ones((3, LENGTH), bool),
    "right": np.array([[7], [3], [1]]) > WHERE,
    "left": np.array([[0], [2], [5]]) <= WHERE,
}


def assert_decodes(
    module: Any, padding: str, of_output: Callable[[Any], Any] = lambda output: output
) -> None:
    """With a cache the pieces of a text give what the whole does, and the padded ones what they give alone."""
    mask = MASKS[padding]

    @compiled
    def run(ids, mask):
        cache, outputs = module.init_cache(3, LENGTH), []
        for piece in np.split(WHERE, np.cumsum(PIECES)[:-1]):
            output, cache = module(ids[:, piece], mask[:, piece], cache=cache)
            outputs.append(output)
        alone = {row: module(ids[row : row + 1, MASKS[padding][row]], cache=None) for row in PADDED}
        return module(ids, mask), jnp.concatenate(outputs, 1), alone, cache.length

    whole, pieces, alone, length = run(IDS, mask)
    np.testing.assert_array_equal(length, mask.sum(1))
    assert_same(pieces[mask], whole[mask])
    for row, output in alone.items():
        assert_same(output[0], whole[row, mask[row]])
