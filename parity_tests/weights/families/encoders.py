"""What the tests of the families that are BERT with other embeddings or heads have in common."""

from typing import Any

from parity_tests.weights.families.transformers_models import EXACT, TRAINING

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 14,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 19,
    "max_position_embeddings": 13,
    "type_vocab_size": 3,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-3,
}
HIDDEN, POOLED = ("last_hidden_state",), ("last_hidden_state", "pooler_output")
LOGITS, SPANS = ("logits",), ("start_logits", "end_logits")
# A fast test shows something new in one lane: the loop, which shared masks unroll, or the places of the masks.
SCANNED: dict[str, Any] = {"scan": True, "lanes": EXACT}
LISTED: dict[str, Any] = {"lanes": TRAINING}
