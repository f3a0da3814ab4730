"""The feed-forward layer with a gate: three linear layers that every token goes through on its own."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS


class GatedFeedForward(nn.Module):
    """`dropout((activation(x W_gate) * (x W_up)) W_down)`, for each token alone.

    See `jax_attn.nn.layers.gated_feed_forward.GatedFeedForward`, its twin, for the arguments.

    Source: Shazeer (arXiv 2002.05202).
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        activation: str = "silu",
        dropout: float = 0.0,
        bias: bool = False,
        activation_dropout: float = 0.0,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate = nn.Linear(embed_dim, hidden_dim, bias)
        self.up = nn.Linear(embed_dim, hidden_dim, bias)
        self.down = nn.Linear(hidden_dim, embed_dim, bias)
        self.activation_dropout = nn.Dropout(activation_dropout) if activation_dropout else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        hidden = self.activation(self.gate(x)) * self.up(x)
        hidden = hidden if self.activation_dropout is None else self.activation_dropout(hidden)
        return self.dropout(self.down(hidden))
