"""Scores of all tokens as the next one."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.tied_head import soft_cap


class CausalLMHead(nn.Module):
    """`softcap(x W + b)`, with a kernel of its own; `TiedHead` takes the table of the embeddings in its place.

    See `jax_attn.nn.layers.causal_lm_head.CausalLMHead`, its twin.

    Source: Touvron et al. (arXiv 2302.13971); the bound: Gemma 2 (arXiv 2408.00118), section 2.
    """

    @checked()
    def __init__(self, embed_dim: int, vocab_size: int, bias: bool = False, softcap: float | None = None):
        super().__init__()
        self.linear = nn.Linear(embed_dim, vocab_size, bias)
        self.softcap = softcap

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to logits `(t, vocab_size)`, or the same with a batch axis before."""
        return soft_cap(self.linear(x), self.softcap)
