"""Which blocks are chosen, as a matrix and as lists; NumPy where it is known while tracing.

`lists` are, for each row of blocks, how many are chosen, and the indices of all, those that are chosen first.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

Lists = tuple[Int[Array | np.ndarray, "*rows"], Int[Array | np.ndarray, "*rows columns"]]


def lists_of(chosen: Bool[Array | np.ndarray, "*rows columns"]) -> Lists:
    """The lists of a boolean matrix of blocks."""
    xp = np if isinstance(chosen, np.ndarray) else jnp
    indices = xp.argsort(~chosen, axis=-1, stable=True).astype(xp.int32)
    return chosen.sum(-1, dtype=xp.int32), indices


def matrix_of(
    num_blocks: Int[Array | np.ndarray, "*rows"], indices: Int[Array | np.ndarray, "*rows columns"]
) -> Bool[Array | np.ndarray, "*rows columns"]:
    """The boolean matrix that the lists come from: the inverse of `lists_of`."""
    traced = isinstance(num_blocks, Tracer) or isinstance(indices, Tracer)
    xp = jnp if traced else np
    num_blocks, indices = xp.asarray(num_blocks), xp.asarray(indices)
    columns = indices.shape[-1]
    counted = (xp.arange(columns) < num_blocks[..., None]).reshape(-1, columns)
    flat = indices.reshape(-1, columns)
    rows = xp.broadcast_to(xp.arange(len(flat))[:, None], flat.shape)
    if traced:
        chosen = jnp.zeros(flat.shape, jnp.int8).at[rows, flat].max(counted.astype(jnp.int8)) > 0
    else:
        chosen = np.zeros(flat.shape, bool)
        chosen[rows[counted], flat[counted]] = True
    return chosen.reshape(indices.shape)


def picture(matrix: Int[np.ndarray, "*leading rows columns"], most: tuple[int, int], limit: int) -> str:
    """A drawing of each matrix: `█` all blocks chosen, `░` some, blank none.

    Args:
        matrix: 1 where a block is chosen, else 0.
        most: the most rows and columns of a drawing.
        limit: the most drawings.
    """
    *leading, rows, columns = matrix.shape
    row_step, column_step = max(1, -(-rows // most[0])), max(1, -(-columns // most[1]))
    drawings = []
    for place in itertools.product(*map(range, leading)):
        if len(drawings) == limit:
            more = "...\nmore with to_string(limit=N), or one at a time with block_mask[batch, head]"
            drawings.append(more)
            break
        lines = [str(place)]
        for row in range(0, rows, row_step):
            cells = (
                matrix[place][row : row + row_step, column : column + column_step].mean()
                for column in range(0, columns, column_step)
            )
            lines.append("".join(2 * ("█" if cell == 1 else " " if cell == 0 else "░") for cell in cells))
        drawings.append("\n".join(lines) + "\n")
    return "\n".join(drawings)
