"""Images in folders: the name of the folder is the class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_attn.functional.checks import require_positive
from jax_attn.training.data.examples import Examples

KINDS = (".png", ".jpg", ".jpeg")


class LabelledImages(NamedTuple):
    """Files, `(n,)` numbers of their classes, and the names of the classes."""

    paths: list[Path]
    labels: np.ndarray
    classes: list[str]


def read_images(folder: Path | str) -> LabelledImages:
    """Find the PNG and JPEG files in `folder/CLASS/`, at any depth, and look at the head of each.

    Raises:
        ValueError: in one line: no folder, fewer than two classes, or a file that is no image.
    """
    from PIL import Image, UnidentifiedImageError

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder; give one that holds a folder of PNG or JPEG files for each class"
        )
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    files = {path.name: sorted(f for f in path.rglob("*") if f.suffix.casefold() in KINDS) for path in inside}
    files = {name: found for name, found in files.items() if found}
    if len(files) < 2:
        raise ValueError(
            f"{folder} must hold a folder of PNG or JPEG files for each of two or more classes, found "
            f"{', '.join(files) or 'none'}"
        )
    for path in (path for found in files.values() for path in found):
        try:
            Image.open(path).close()
        except UnidentifiedImageError:
            raise ValueError(f"{path} is no image that can be read; mend or remove it") from None
    labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(found) for found in files.values()])
    return LabelledImages([path for found in files.values() for path in found], labels, list(files))


class ImageExamples(Examples):
    """Images to classify: `pixel_values (b, 3, size, size)`, float32, and `labels (b,)`.

    Files are read when their batch is made. An image is scaled to cover the square, and its middle is taken.

    Args:
        paths: of the files.
        labels: `(n,)`.
        size: of the square, in pixels.
        mean: of each channel, of values from 0 to 1; it is subtracted.
        std: of each channel; then divided by.
    """

    def __init__(
        self,
        paths: list[Path],
        labels: np.ndarray,
        size: int,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ):
        require_positive("size", size)
        self.paths, self.labels, self.size = paths, labels, size
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)

    def __len__(self) -> int:
        return len(self.paths)

    def collate(self, rows: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        """The images of `rows`; a host reads no others."""
        pixels = np.stack([self._read(self.paths[row]) for row in rows])
        pixels = (pixels / np.float32(255) - self._mean) / self._std
        return {"pixel_values": pixels.transpose(0, 3, 1, 2), "labels": self.labels[rows]}

    def _read(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                square = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.BICUBIC)
                return np.asarray(square)
        except OSError as error:  # a file that ends early, too
            raise ValueError(f"{path}: {error}; mend or remove it") from None
