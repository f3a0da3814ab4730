"""The gated delta rule as a layer: a memory of fixed size in place of keys and values."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked, divided, head_width


class GatedDeltaNet(nn.Module):
    """Linear attention whose memory fades, and is corrected by what each token adds to it.

    See `jax_attn.nn.attention.gated_delta.GatedDeltaNet`, its twin, for the formula and the arguments. Here it
    goes token by token; `chunk_size` is not used.

    Source: Yang et al. (arXiv 2412.06464); norm, gate and grouped heads as in Qwen3-Next.
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_qk_heads: int | None = None,
        head_dim: int | None = None,
        value_head_dim: int | None = None,
        conv_size: int = 4,
        eps: float = 1e-6,
        chunk_size: int = 64,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.num_qk_heads = num_heads if num_qk_heads is None else num_qk_heads
        divided("num_heads", num_heads, "num_qk_heads", self.num_qk_heads)
        self.head_dim = head_width(embed_dim, num_heads, head_dim)
        value_head_dim = self.head_dim if value_head_dim is None else value_head_dim
        self.key_width = self.num_qk_heads * self.head_dim
        self.value_width = num_heads * value_head_dim
        self.q_proj = nn.Linear(embed_dim, self.key_width, bias=False)
        self.k_proj = nn.Linear(embed_dim, self.key_width, bias=False)
        self.v_proj = nn.Linear(embed_dim, self.value_width, bias=False)
        self.gate_proj = nn.Linear(embed_dim, self.value_width, bias=False)
        self.beta_proj = nn.Linear(embed_dim, num_heads, bias=False)
        self.decay_proj = nn.Linear(embed_dim, num_heads, bias=False)
        self.out_proj = nn.Linear(self.value_width, embed_dim, bias=False)
        channels = 2 * self.key_width + self.value_width
        self.conv = nn.Conv1d(channels, channels, conv_size, groups=channels, bias=False)
        self.norm = nn.RMSNorm(value_head_dim, eps=eps)
        times = torch.exp(torch.empty(num_heads).uniform_(math.log(1e-3), math.log(0.1)))
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(times + torch.log(-torch.expm1(-times)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)` and a mask `(b, t)`, True = a token, to `(b, t, d)`; or both without `b`."""
        if x.ndim == 2:
            return self(x[None], None if mask is None else mask[None])[0]
        if mask is not None:  # padding behind the tokens, where it changes nothing of them
            order = (~mask).int().argsort(dim=1, stable=True)[..., None]
            x = x.masked_fill(~mask[..., None], 0).take_along_dim(order, dim=1)
        inputs = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        mixed = F.silu(self.conv(F.pad(inputs.mT, (self.conv.kernel_size[0] - 1, 0)))).mT
        query, key, value = mixed.split([self.key_width, self.key_width, self.value_width], dim=-1)
        query, key = (
            unit(part.unflatten(-1, (self.num_qk_heads, -1))).repeat_interleave(
                self.num_heads // self.num_qk_heads, dim=2
            )
            for part in (query, key)
        )
        value = value.unflatten(-1, (self.num_heads, -1))
        log_decay = -self.A_log.exp() * F.softplus(self.decay_proj(x) + self.dt_bias)
        beta = self.beta_proj(x).sigmoid()

        heads = gated_delta_rule(query / self.head_dim**0.5, key, value, log_decay, beta)
        gate = self.gate_proj(x).unflatten(-1, (self.num_heads, -1))
        output = self.out_proj((self.norm(heads) * F.silu(gate)).flatten(-2))
        return output if mask is None else output.take_along_dim(order.argsort(dim=1), dim=1)


def gated_delta_rule(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """The memory of each head, token by token; all `(b, t, n, ...)`."""
    memory = torch.zeros_like(key[:, 0, :, :, None] * value[:, 0, :, None])
    outputs = []
    for q, k, v, g, b in zip(*(x.unbind(1) for x in (query, key, value, log_decay, beta)), strict=True):
        memory = memory * g.exp()[..., None, None]
        difference = (v - (k[..., None] * memory).sum(-2)) * b[..., None]
        memory = memory + k[..., None] * difference[..., None, :]
        outputs.append((q[..., None] * memory).sum(-2))
    return torch.stack(outputs, dim=1)


def unit(x: Tensor) -> Tensor:
    """Each vector divided by its length."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)
