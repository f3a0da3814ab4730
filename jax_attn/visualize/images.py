"""A checkpoint looks at an image, and the attention of its patches is kept."""

from os import PathLike
from pathlib import Path

import numpy as np

from jax_attn.visualize.capture import record_attention
from jax_attn.visualize.record import AttentionRecord, TokenAxis
from jax_attn.visualize.texts import checkpoint_folder, parameters_of
from jax_attn.visualize.torch_weights import torch_attention_weights
from jax_attn.weights.image import pixel_values, read_image
from jax_attn.weights.pretrained import from_pretrained
from jax_attn.weights.twin import torch_twin


def record_image(
    path: str | PathLike[str], *, checkpoint: str | PathLike[str], against_torch: bool = False
) -> AttentionRecord:
    """Let a checkpoint's model look at an image, and keep its attention.

    Args:
        path: of the image; its middle is taken, in the size that the model takes.
        checkpoint: a folder of a ViT or a DINOv2.
        against_torch: whether torch's twin looks at it too, to be shown beside.

    Raises:
        FileNotFoundError, ModuleNotFoundError: as `from_pretrained` and `read_image`.
        ValueError: likewise; or the model takes no images of three channels.
    """
    folder = checkpoint_folder(checkpoint)
    model = from_pretrained(folder, param_dtype=np.float32)
    if parameters_of(model)[0] != "pixel_values":
        raise ValueError(f"{folder} takes no image, but text or audio")
    inner = model
    while hasattr(inner, "model"):
        inner = inner.model
    *size, channels = inner.embeddings.image_shape
    if channels != 3:
        raise ValueError(f"{folder} takes images of {channels} channels; a file is read into 3")
    image = read_image(path, tuple(size))
    pixels = pixel_values(folder, image)
    other = torch_attention_weights(torch_twin(model), pixels) if against_torch else None
    embeddings = inner.embeddings
    rows, columns = embeddings.grid
    registers = 0 if embeddings.registers is None else embeddings.registers.shape[1]
    special = [
        *(["[CLS]"] if embeddings.class_token is not None else []),
        *(f"[REG{number}]" for number in range(registers)),
    ]
    patches = [f"{row},{column}" for row in range(rows) for column in range(columns)]
    tokens = TokenAxis(
        (*special, *patches),
        special=(True,) * len(special) + (False,) * len(patches),
        grid=(rows, columns),
    )
    title = Path(checkpoint).resolve().name
    return record_attention(model, pixels, tokens=tokens, title=title, image=image, other=other)
