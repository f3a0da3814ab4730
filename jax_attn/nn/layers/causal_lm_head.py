"""Scores of all tokens as the next one."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_cap, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.softcap import soft_cap
from jax_attn.nn.primitives import Linear


class CausalLMHead(nnx.Module):
    """`softcap(x W + b)`, with a kernel of its own; `TiedHead` takes the table of the embeddings in its place.

    Parameters: `linear` kernel `(embed_dim, vocab_size)`, and with `bias` its bias.

    Args:
        embed_dim: width of the input.
        vocab_size: number of tokens.
        bias: whether one is added.
        softcap: bound of the logits, `softcap * tanh(logits / softcap)` (Gemma 2); None is none.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is not positive, `softcap` is not above 0, or the input is not `(t, embed_dim)` or
            `(b, t, embed_dim)`.

    Source: Touvron et al. (arXiv 2302.13971); the bound: Gemma 2 (arXiv 2408.00118), section 2.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "linear": ("embed", "vocab"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        bias: bool = False,
        softcap: float | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        require_positive("vocab_size", vocab_size)
        if softcap is not None:
            require_cap("softcap", softcap)
        self.embed_dim, self.softcap = embed_dim, softcap
        self.linear = Linear(embed_dim, vocab_size, bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t v"]:
        """`(t, d)` to logits `(t, vocab_size)`, or the same with a batch axis before."""
        require_last_dim("x", x.shape, self.embed_dim)
        return soft_cap(constrain(self.linear(x), "batch", "length", "vocab"), self.softcap)
