import pytest

from jax_attn.training.data import read_pairs


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", 'source,target\n"one, two","하나, 둘"\nx,y\n'),
        ("d.tsv", "target\tsource\n하나, 둘\tone, two\ny\tx\n"),
        ("d.jsonl", '{"source": "one, two", "target": "하나, 둘"}\n{"source": "x", "target": "y"}\n'),
    ],
)
def test_two_columns(tmp_path, name, content):
    found = read_pairs(write(tmp_path / name, content))
    assert found == (["one, two", "x"], ["하나, 둘", "y"])


def test_a_table_without_a_header(tmp_path):
    path = write(tmp_path / "d.tsv", "one, two, three\t하나\tCC-BY\nx\ty\tCC-BY\n")
    assert read_pairs(path, source_column="1", target_column="2").sources == ["one, two, three", "x"]


def test_two_files(tmp_path):
    source, target = write(tmp_path / "d.en", "one\n\n two \n"), write(tmp_path / "d.ko", "하나\n\n둘\n")
    assert read_pairs(source, target) == (["one", "two"], ["하나", "둘"])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\n", "x\n", "d.en has 2 lines and .*d.ko 1"),
        ("a\n\nc\n", "x\ny\nz\n", "d.en, line 2: empty, but not in the other file"),
        ("a\nb\n", "x\n \n", "d.ko, line 2: empty"),
        ("", "x\n", "d.en is empty"),
    ],
)
def test_files_that_do_not_go_together(tmp_path, source, target, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(write(tmp_path / "d.en", source), write(tmp_path / "d.ko", target))
    assert "\n" not in str(caught.value)


def test_a_missing_translation_and_a_missing_column(tmp_path):
    with pytest.raises(ValueError, match=r"line 3: 'target' holds no text"):
        read_pairs(write(tmp_path / "d.csv", "source,target\na,b\nc,\n"))
    with pytest.raises(
        ValueError, match=r"no column 'target'; give --target-column one of those there: 'source', 'ko'"
    ):
        read_pairs(write(tmp_path / "d.csv", "source,ko\na,b\n"))
