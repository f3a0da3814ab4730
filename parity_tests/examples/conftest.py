import sys
from pathlib import Path

import numpy as np
import pytest

# The examples are programs beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

WORDS = {"fruit": ["apple", "pear", "plum", "fig"], "metal": ["iron", "zinc", "tin", "lead"]}


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Texts whose class one word tells, among words that tell nothing."""
    random = np.random.default_rng(0)
    lines = ["kind,words"]
    for row in range(96):
        kind = ("fruit", "metal")[row % 2]
        words = [f"f{n}" for n in random.integers(0, 30, random.integers(2, 7))]
        words.insert(0, str(random.choice(WORDS[kind])))
        lines.append(f"{kind},{' '.join(words)}")
    path = tmp_path_factory.mktemp("data") / "kinds.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(table):
    """An encoder of a few hundred weights on them, whose batches have one width."""
    return {
        "data": str(table),
        "text_column": "words",
        "steps": 60,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 300,
        "max_tokens": 8,
    }
