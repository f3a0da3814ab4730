import pytest

from jax_attn.training.data import read_texts


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    files = {
        "b.txt": "first\nline\n\nsecond\n",
        "a.jsonl": '{"text": "one"}\n{"text": "two\\n\\nthree"}\n{"text": " "}\n',
        "sub/c.md": "\ufefflast\r\n",
        "ignored.bin": "\0",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    assert read_texts(folder) == ["one", "two\n\nthree", "first\nline\n\nsecond\n", "last\n"]


def test_one_file_or_several(folder):
    assert read_texts(folder / "b.txt") == ["first\nline\n\nsecond\n"]
    assert read_texts([folder / "sub", folder / "b.txt"]) == ["last\n", "first\nline\n\nsecond\n"]


def test_units(folder):
    assert read_texts(folder / "b.txt", unit="line") == ["first", "line", "second"]
    assert read_texts(folder, unit="paragraph") == ["one", "two", "three", "first\nline", "second", "last"]


def test_what_cannot_be_read(folder):
    (folder / "empty").mkdir()
    for given, message in [
        (folder / "empty", r"holds no \.txt"),
        (folder / "ignored.bin", "a zero byte"),
        ([], "no file given"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_texts(given)
    with pytest.raises(ValueError, match="there is no 'body'; give --text-column one of those there: 'text'"):
        read_texts(folder / "a.jsonl", text_column="body")
    (folder / "a.jsonl").write_text('{"text": 5}')
    with pytest.raises(ValueError, match="line 1: 'text' must be a string, got int"):
        read_texts(folder)
