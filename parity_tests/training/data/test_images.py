import numpy as np
import pytest
from PIL import Image

from jax_attn.training.data import ImageExamples, OrderedBatches, read_images

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
LEVEL = 2 / 255  # one of the 256 levels of a JPEG, from -1 to 1


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.new("RGB", (12, 8), colour).save(tmp_path / name / "deep" / "a.png")
        Image.new("L", (5, 9), 255).save(tmp_path / name / "b.JPG", "JPEG")
    (tmp_path / "notes.txt").write_text("no class")
    return tmp_path


def test_the_folder_is_the_class(folder):
    images = read_images(folder)
    assert images.classes == ["blue", "red"]
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1])
    assert [path.name for path in images.paths] == ["b.JPG", "a.png"] * 2


def test_a_batch_of_images(folder):
    images = read_images(folder)
    examples = ImageExamples(images.paths, images.labels, 6)
    batch = OrderedBatches(examples, 4)[0]
    assert batch["pixel_values"].shape == (4, 3, 6, 6)
    assert batch["pixel_values"].dtype == np.float32
    for row, expected in enumerate([(1, 1, 1), (-1, -1, 1), (1, 1, 1), (1, -1, -1)]):
        np.testing.assert_allclose(
            batch["pixel_values"][row], np.reshape(expected, (3, 1, 1)) * np.ones((6, 6)), atol=LEVEL
        )


def test_what_is_no_folder_of_images(folder, tmp_path):
    (folder / "red" / "c.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(ValueError, match=r"c\.png is no image that can be read"):
        read_images(folder)
    with pytest.raises(ValueError, match="is no folder; give one that holds a folder"):
        read_images(folder / "notes.txt")
    with pytest.raises(ValueError, match="each of two or more classes, found deep"):
        read_images(folder / "blue")


def test_an_image_that_ends_early_is_named_when_it_is_read(folder):
    path = folder / "red" / "deep" / "a.png"
    path.write_bytes(path.read_bytes()[:50])
    images = read_images(folder)
    with pytest.raises(ValueError, match=r"a\.png: .*; mend or remove it"):
        ImageExamples(images.paths, images.labels, 6).collate(np.array([3]), np.array([3]))
