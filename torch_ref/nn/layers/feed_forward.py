"""The two linear layers that every token goes through on its own."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked

gelu_tanh = partial(F.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x))),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "swish": F.silu,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class FeedForward(nn.Module):
    """`dropout(activation(x W_up + b_up) W_down + b_down)`, for each token alone.

    See `jax_attn.nn.layers.feed_forward.FeedForward`, its twin, for the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.3.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        activation_dropout: float = 0.0,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(embed_dim, hidden_dim, bias)
        self.down = nn.Linear(hidden_dim, embed_dim, bias)
        self.activation_dropout = nn.Dropout(activation_dropout) if activation_dropout else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        hidden = self.activation(self.up(x))
        hidden = hidden if self.activation_dropout is None else self.activation_dropout(hidden)
        return self.dropout(self.down(hidden))
