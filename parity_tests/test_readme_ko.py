"""README.ko.md says what README.md says: in each section the same code, names, figures and links."""

import ast
import re
from collections import Counter

import pytest

from parity_tests.documents import FENCED, ROOT


def sections(name: str) -> list[str]:
    """The text from each heading to the next; a `#` in code is none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    starts = [
        match.start()
        for match in re.finditer(r"^#+ ", FENCED.sub(lambda m: " " * len(m[0]), text), re.MULTILINE)
    ]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


ENGLISH, KOREAN = sections("README.md"), sections("README.ko.md")


def test_the_headings_are_the_same():
    levels = [[len(section.split()[0]) for section in sections] for sections in (ENGLISH, KOREAN)]
    assert levels[0] == levels[1]


def without_comments(language: str, code: str) -> str:
    """What is executed, or shown; comments are translated."""
    if language == "python":
        return ast.unparse(ast.parse(code))
    lines = code.splitlines()
    return "\n".join(re.sub(r"\s+#.*", "", line) for line in lines) if language == "sh" else code


@pytest.mark.parametrize("number", range(len(ENGLISH)), ids=[section.split("\n")[0] for section in ENGLISH])
def test_a_section_is_the_same(number):
    english, korean = ENGLISH[number], KOREAN[number]
    blocks = [
        [(language, without_comments(language, code)) for language, code in FENCED.findall(text)]
        for text in (english, korean)
    ]
    assert blocks[0] == blocks[1]
    english, korean = (FENCED.sub("", text) for text in (english, korean))
    assert links(english) == links(korean)
    assert names(english) == names(korean)
    assert figures(english) <= figures(korean), figures(english) - figures(korean)
    assert korean.count("\n|") == english.count("\n|"), "rows of tables"
    assert korean.count("\n- ") == english.count("\n- "), "items of lists"


def links(text: str) -> Counter[str]:
    """Where a text links to, but for the other language."""
    return Counter(re.findall(r"\]\(([^)]+)\)", re.sub(r"\(README(\.ko)?\.md\)", "", text)))


def names(text: str) -> Counter[str]:
    """Code in a line, however it is wrapped."""
    return Counter(re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", text))


def figures(text: str) -> Counter[str]:
    """Numbers in digits."""
    return Counter(re.findall(r"\d[\d.,e-]*\d|\d", re.sub(r"`[^`]+`|\]\([^)]+\)", "", text)))
