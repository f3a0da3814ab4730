"""A branch that is left out by chance."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_last_dim
from jax_attn.nn.primitives import Dropout


class DropPath(Dropout):
    """Stochastic depth: zeroes a whole sequence with probability `p`, and scales the others by `1 / (1 - p)`.

    It stands behind a branch, before it is added to the skip connection, so that the sequence goes by the branch.
    Each sequence of a batch is decided on its own. It is active while training: `module.eval()` turns it off.

    Args:
        p: probability of leaving the branch out; it usually grows from 0 with the depth of the layer.
        rngs: source of the draws.

    Raises:
        ValueError: `p` is no probability, or the input is not `(t, d)` or `(b, t, d)`.

    Source: Huang et al. (arXiv 1603.09382).
    """

    @checked
    def __init__(self, p: float = 0.0, *, rngs: nnx.Rngs):
        super().__init__(p, rngs=rngs)
        self.broadcast_dims = (-2, -1)

    def __call__(
        self,
        inputs: Float[Array, "*b t d"],
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape; the other arguments as in `nnx.Dropout`."""
        require_last_dim("inputs", inputs.shape, None)
        return super().__call__(inputs, deterministic=deterministic, rngs=rngs)
