"""Arrays in, arrays out: attention and what it is made of, without modules or state."""

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.block_mask import (
    BlockMask,
    and_masks,
    create_block_mask,
    create_mask,
    noop_mask,
    or_masks,
)
from jax_attn.functional.delta_rule import chunked_gated_delta_rule, recurrent_gated_delta_rule
from jax_attn.functional.flex import AuxOutput, AuxRequest, flex_attention
from jax_attn.functional.linear_attention import (
    bidirectional_linear_attention,
    chunked_linear_attention,
    linear_attention_weights,
    recurrent_linear_attention,
)
from jax_attn.functional.log_mel import log_mel
from jax_attn.functional.normalize import normalize_rows
from jax_attn.functional.random_features import orthogonal_features, softmax_features
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.sentence import cosine_similarity, mean_pooling
from jax_attn.functional.softmax import masked_logsumexp, masked_softmax

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "and_masks",
    "bidirectional_linear_attention",
    "chunked_gated_delta_rule",
    "chunked_linear_attention",
    "cosine_similarity",
    "create_block_mask",
    "create_mask",
    "dot_product_attention",
    "flex_attention",
    "linear_attention_weights",
    "log_mel",
    "mask_mods",
    "masked_logsumexp",
    "masked_softmax",
    "mean_pooling",
    "noop_mask",
    "normalize_rows",
    "or_masks",
    "orthogonal_features",
    "recurrent_gated_delta_rule",
    "recurrent_linear_attention",
    "reference_attention",
    "score_mods",
    "softmax_features",
]


def __dir__() -> list[str]:
    return __all__
