"""The rows of `nn/attention/`."""

from functools import partial

from jax_attn.catalogue.cases import cross_cases, mask_cases, token_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, Twin

ATTENTION = [
    Twin(
        "attention",
        "nn.attention.multi_head:MultiHeadAttention",
        "heads that see every token; the attention of the models",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(token_cases, 91),
    ),
    Twin(
        "attention-masked",
        "nn.attention.multi_head:MultiHeadAttention",
        "the same without biases, with a mask over keys or pairs",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3, bias=False),
        partial(mask_cases, 91),
    ),
    Twin(
        "attention-cross",
        "nn.attention.multi_head:MultiHeadAttention",
        "from one sequence to another of another length",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(cross_cases, 91),
    ),
    Twin(
        "attention-grouped",
        "nn.attention.multi_head:MultiHeadAttention",
        "GQA: three query heads to a key/value head",
        "Ainslie et al. (arXiv 2305.13245)",
        dict(embed_dim=78, num_heads=6, num_kv_heads=2, dropout=0.3),
        partial(cross_cases, 78),
    ),
    Twin(
        "attention-multi-query",
        "nn.attention.multi_head:MultiHeadAttention",
        "MQA: all query heads to one key/value head",
        "Shazeer (arXiv 1911.02150)",
        dict(embed_dim=87, num_heads=3, num_kv_heads=1, dropout=0.3),
        partial(mask_cases, 87),
    ),
]
