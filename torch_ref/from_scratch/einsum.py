"""Multi-head attention written in Einstein sums."""

import math

import torch
from torch import Tensor, nn


class MultiHeadAttentionEinsum(nn.Module):
    """Causal multi-head attention in which every product is an einsum over named axes.

    See `jax_attn.from_scratch.einsum.MultiHeadAttentionEinsum`, its twin, for the formula and the arguments.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations.
    """

    mask: Tensor
    bias_q: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Parameter(torch.empty(d_in, d_out))
        self.W_key = nn.Parameter(torch.empty(d_in, d_out))
        self.W_value = nn.Parameter(torch.empty(d_in, d_out))
        for name in ("bias_q", "bias_k", "bias_v"):
            self.register_parameter(name, nn.Parameter(torch.empty(d_out)) if qkv_bias else None)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-uniform weights, whose fan-in torch reads off the second axis, and biases of that bound."""
        for weight in (self.W_query, self.W_key, self.W_value):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        for bias in (self.bias_q, self.bias_k, self.bias_v):
            if bias is not None:
                bound = self.W_query.shape[1] ** -0.5
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        tokens = x.shape[-2]
        queries = self._heads(x, self.W_query, self.bias_q)
        keys = self._heads(x, self.W_key, self.bias_k)
        values = self._heads(x, self.W_value, self.bias_v)

        scores = torch.einsum("...tnh,...snh->...nts", queries, keys) / self.head_dim**0.5
        scores = scores.masked_fill(self.mask[:tokens, :tokens].bool(), -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        context = torch.einsum("...nts,...snh->...tnh", self.dropout(weights), values)
        return self.out_proj(context.flatten(-2))

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        projected = torch.einsum("...td,di->...ti", x, weight)
        if bias is not None:
            projected = projected + bias
        return projected.unflatten(-1, (self.num_heads, self.head_dim))
