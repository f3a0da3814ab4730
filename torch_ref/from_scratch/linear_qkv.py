"""Where queries, keys and values come from: three linear layers over the same tokens."""

from torch import Tensor, nn


class LinearQKV(nn.Module):
    """The three projections of self-attention, alone.

    See `jax_attn.from_scratch.linear_qkv.LinearQKV`, its twin, for the formula.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(t, d_model)` or `(b, t, d_model)` to queries, keys and values, each of the same shape."""
        return self.W_q(x), self.W_k(x), self.W_v(x)
