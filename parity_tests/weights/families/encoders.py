"""What the tests of the families of encoders have in common."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case

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
# Each of the fast tests shows something in one lane: the loop, which shared masks unroll, or the masks' places.
SCANNED: dict[str, Any] = {"scan": True, "lanes": ("float64",)}
LISTED: dict[str, Any] = {"lanes": ("dropout",)}


def texts(padding: int, segments: int = 0, middle: bool = False) -> list[Case]:
    """One call on three texts of different lengths; `middle` has padding between the tokens of one too."""
    rng = np.random.default_rng(0)
    mask = np.arange(7) < np.array([[7], [5], [3]])
    ids = np.where(mask, rng.integers(padding + 1, 31, size=(3, 7)), padding)
    if middle:
        ids[0, 2] = padding
    given = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if segments:
        given["token_type_ids"] = rng.integers(segments, size=(3, 7))
    return [Case("texts", (), given)]


def edit_config(folder: Path, **attributes: Any) -> None:
    """Write other attributes into the folder's `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **attributes}))
