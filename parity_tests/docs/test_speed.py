"""Every figure of the page of speed comes from the benchmark's JSON."""

import json
import re

import pytest

from docs.hooks.speed import RECORD, page


@pytest.fixture
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_it_shows_the_run_and_every_contender(record):
    written = page()
    assert record["date"][:10] in written
    assert record["machine"]["processor"] in written
    assert written.count("<table") == len(record["comparisons"])
    assert written.count('<th scope="row">') == sum(len(row["seconds"]) for row in record["comparisons"])


def test_other_figures_make_another_page(record, tmp_path):
    row = record["comparisons"][0]
    ours, other, *_ = row["seconds"]
    row["seconds"] = {ours: [2.0, 1.0, 3.0], other: [4e-5, 6e-5, 5e-5]}
    row["median"] = {ours: 2.0, other: 5e-5}
    row["ours_is_times_as_fast"] = {ours: 1.0, other: 2.5e-5}
    row["temporary_bytes"] = {ours: 3 * 2**20}
    row["left_out"] = {"<torch>": "no memory"}
    (tmp_path / "speed.json").write_text(json.dumps({**record, "comparisons": [row]}))
    written = page(tmp_path / "speed.json")
    assert "2 s <small>1 s to 3 s</small>" in written
    assert "50 µs <small>40 µs to 60 µs</small>" in written
    assert re.findall(r"width: ([\d.]+)%", written) == ["100.0", "0.0"]
    assert "<td>3 MB</td>" in written
    assert "<td>0.00</td>" in written
    assert "&lt;torch&gt; took no part: no memory" in written
