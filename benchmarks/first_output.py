"""What `start` runs in a process of its own: load an encoder, read a batch, keep the first vectors.

python -m benchmarks.first_output NAME FOLDER BATCH.npz OUTPUT.npy
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[Path, np.ndarray, np.ndarray], np.ndarray]


def with_flax(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The last hidden states, from one compiled program."""
    from flax import nnx

    from jax_attn.weights import from_pretrained

    model = from_pretrained(folder)
    return np.asarray(nnx.jit(lambda model, *batch: model(*batch).last_hidden_state)(model, ids, mask))


def with_transformers(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The same of transformers, on torch."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    return hidden.last_hidden_state.numpy()


ENCODERS: dict[str, Encode] = {"Flax, jitted": with_flax, "transformers": with_transformers}


def main(name: str, folder: str, batch: str, output: str) -> None:
    """Run one of the encoders."""
    given = np.load(batch)
    hidden = ENCODERS[name](Path(folder), given["ids"], given["mask"])
    np.save(output, hidden * given["mask"][..., None])


if __name__ == "__main__":
    main(*sys.argv[1:])
