"""Many feed-forward layers, of which each token goes through a few."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS
from torch_ref.nn.layers.gated_feed_forward import GatedFeedForward
from torch_ref.nn.layers.router_losses import RouterLosses


class MixtureOfExperts(nn.Module):
    """`Σ w_e · E_e(x)` over the `top_k` experts that a router chooses for each token, `E_e` as `GatedFeedForward`.

    See `jax_attn.nn.layers.mixture_of_experts.MixtureOfExperts`, its twin, for the arguments. Here every token goes
    through every expert, and `implementation` means nothing.

    Source: Shazeer et al. (arXiv 1701.06538); Fedus et al. (arXiv 2101.03961); Jiang et al. (arXiv 2401.04088).
    """

    takes_mask = True

    @checked(activation=ACTIVATIONS, softmax=("before", "after"))
    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int,
        top_k: int = 2,
        activation: str = "silu",
        softmax: str = "after",
        capacity_factor: float | None = None,
        shared_dim: int | None = None,
        shared_gate: bool = False,
        dropout: float = 0.0,
        *,
        implementation: str = "grouped",
    ):
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k
        self.activation, self.softmax = ACTIVATIONS[activation], softmax
        self.capacity_factor = capacity_factor
        self.router = nn.Linear(embed_dim, num_experts, bias=False)
        self.gate_up = _Weights(num_experts, 2 * hidden_dim, embed_dim)
        self.down = _Weights(num_experts, embed_dim, hidden_dim)
        self.shared = None if shared_dim is None else GatedFeedForward(embed_dim, shared_dim, activation)
        self.shared_gate = nn.Linear(embed_dim, 1, bias=False) if shared_gate else None
        self.dropout = nn.Dropout(dropout)
        self.keep_losses: Any = None  # what `capture_router_losses` wants to be called with them

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_losses: bool = False
    ) -> Tensor | tuple[Tensor, RouterLosses]:
        """`(t, d)` or `(b, t, d)` to the same shape; the mask is True where a token stands."""
        real = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = F.linear(x.to(wide), self.router.weight.to(wide))
        if self.softmax == "before":
            weights, indices = logits.softmax(-1).topk(self.top_k)
        else:
            chosen, indices = logits.topk(self.top_k)
            weights = chosen.softmax(-1)
        weights = torch.where(self.has_room(indices, real), weights, 0)

        output = torch.zeros_like(x, dtype=wide)
        for expert in range(self.num_experts):
            weight = torch.where(indices == expert, weights, 0).sum(-1, keepdim=True)
            gate, up = F.linear(x, self.gate_up.weight[expert]).chunk(2, dim=-1)
            output = output + weight * F.linear(self.activation(gate) * up, self.down.weight[expert])
        output = output.to(x.dtype)
        if self.shared is not None:
            gate = 1 if self.shared_gate is None else torch.sigmoid(self.shared_gate(x))
            output = output + gate * self.shared(x)
        output = self.dropout(output)
        if self.keep_losses is not None:
            self.keep_losses(self.losses(logits, indices, real))
        return (output, self.losses(logits, indices, real)) if return_losses else output

    def has_room(self, indices: Tensor, real: Tensor) -> Tensor:
        """Whether each choice of a real token is among the first that its expert takes of the sequence."""
        room = real[..., None].expand(indices.shape)
        if self.capacity_factor is None:
            return room
        tokens = indices.shape[-2]
        capacity = math.ceil(self.capacity_factor * tokens * self.top_k / self.num_experts)
        chosen = F.one_hot(indices, self.num_experts) * room[..., None]
        in_turn = chosen.transpose(-2, -3).flatten(-3, -2)  # all first choices, then all second ones
        taken = (in_turn.cumsum(-2) * in_turn).sum(-1).unflatten(-1, (self.top_k, tokens)).transpose(-1, -2)
        return room & (taken <= capacity)

    def losses(self, logits: Tensor, indices: Tensor, real: Tensor) -> RouterLosses:
        """Of the router, over the real tokens."""
        count = real.sum().clamp(min=1)
        went = F.one_hot(indices[real], self.num_experts).sum((0, 1)) / count
        probability = logits[real].softmax(-1).sum(0) / count
        z = logits[real].logsumexp(-1).square().sum() / count
        return RouterLosses(self.num_experts * (went * probability).sum(), z)


class _Weights(nn.Module):
    """The weights `(num, out_features, in_features)` of `num` linear layers."""

    def __init__(self, num: int, out_features: int, in_features: int):
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(num, out_features, in_features).uniform_(-bound, bound))
