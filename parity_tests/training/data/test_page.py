"""The page on data runs as it stands, and names what is there."""

import re
from pathlib import Path

from jax_attn.training import data, samples
from jax_attn.training.data import plain, tables

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_its_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n % 5},this is review {n} of {n % 7}\n" for n in range(60))
    Path("reviews.csv").write_text("stars,review\n" + rows)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names = {"__name__": "page"}
    exec(compile(block, "data.md", "exec"), names)
    assert names["step"] == 1239
    assert names["batch"]["labels"].shape == (8,)


def test_it_names_every_sample_ending_and_kind_of_examples():
    for name in (*samples.LABELLED, *samples.PLAIN, *samples.PAIRS, *tables.JSON_LINES, *plain.PLAIN):
        assert f"`{name}`" in PAGE
    kinds = {name for name in data.__all__ if name.endswith(("Examples", "_examples", "Batches"))}
    for name in kinds - {"ArrayExamples", "PaddedExamples", "GlobalBatches"}:  # what the others are made of
        assert name in PAGE
