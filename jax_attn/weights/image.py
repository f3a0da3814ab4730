"""An image file as a checkpoint's model sees it, with the numbers of its `preprocessor_config.json`."""

from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from jax_attn.weights.files import read_json

PROCESSOR = "preprocessor_config.json"


def read_image(path: str | PathLike[str], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The image, scaled to cover `size` (height, width), and its middle.

    Raises:
        ValueError: it is no image that can be read.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading images needs pillow: pip install pillow") from None
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError):
        raise ValueError(f"{path} is no image that can be read") from None
    return np.array(fitted)


def pixel_values(
    folder: str | PathLike[str], image: UInt8[np.ndarray, "h w 3"]
) -> Float32[np.ndarray, "1 3 h w"]:
    """The image as its model takes it: less the mean, over the standard deviation, of values from 0 to 1.

    Args:
        folder: a checkpoint's; without a `preprocessor_config.json` both are 0.5.
        image: of the size that the model takes.
    """
    file = Path(folder) / PROCESSOR
    found = read_json(file) if file.is_file() else {}
    mean, std = (np.array(found.get(name) or [0.5] * 3, np.float32) for name in ("image_mean", "image_std"))
    scaled = (image / np.float32(255) - mean) / std
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)
