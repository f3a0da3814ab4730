import csv
import json

import numpy as np
import pytest

from jax_attn.training.data import read_labelled_texts

CSV = "label,id,text\na,1,one\nb,2,three\na,3,five\n"


def read(path, content, encoding="utf-8", **columns):
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return read_labelled_texts(path, **columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", 'label,id,text\na,1,"one, two"\nb,2,three\na,3,five\n'),
        ("data.tsv", "label\tid\ttext\na\t1\tone, two\nb\t2\tthree\na\t3\tfive\n"),
        ("data.txt", "label;id;text\na;1;one, two\nb;2;three\na;3;five\n"),
        ("data.txt", "label|id|text\na|1|one, two\nb|2|three\na|3|five\n"),
        ("spreadsheet.csv", '\ufefflabel,id,text\r\na,1,"one, two"\r\n\r\nb,2,three\r\n,,\r\na,3,five\r\n'),
        ("quoted.csv", '"label","te;xt","text"\n"a","","one, two"\n"b","","three"\n"a","","five"\n'),
        (
            "data.jsonl",
            '{"label": "a", "text": "one, two"}\n\n{"text": "three", "label": "b", "id": 2}\n'
            '{"label": "a", "text": "five"}',
        ),
    ],
)
def test_a_table_is_read_by_its_header(tmp_path, name, content):
    found = read(tmp_path / name, content)
    assert (found.texts, found.classes) == (["one, two", "three", "five"], ["a", "b"])
    np.testing.assert_array_equal(found.labels, [0, 1, 0])
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_that_say_what_they_are(tmp_path, encoding, delimiter):
    found = read(tmp_path / "data.csv", CSV.replace("one", "Ünï 하나").replace(",", delimiter), encoding)
    assert found.texts[0] == "Ünï 하나"


def test_columns_by_number_where_there_is_no_header(tmp_path):
    found = read(tmp_path / "d.tsv", "a\tone, or, two\nb\tx\nb\ty\n", text_column="2", label_column="1")
    assert found.texts == ["one, or, two", "x", "y"]


def test_numbers_are_classes_too(tmp_path):
    rows = [{"text": f"x{label}", "label": label} for label in (1, 0, 0.0, 4.5, 0)]
    found = read(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)))
    assert found.classes == ["0", "1", "4.5"]


def test_quotes_may_be_characters_in_a_tsv(tmp_path):
    found = read(tmp_path / "d.tsv", 'text\tlabel\n"so bad\ta\nso "good"\tb\n"a" or b\tb\n')
    assert found.texts == ['"so bad', 'so "good"', '"a" or b']
    found = read(tmp_path / "d.tsv", 'text\tlabel\n"a\tb ""c"""\ta\nx\tb\ny\tb\n')
    assert found.texts[0] == 'a\tb "c"'


def test_a_quoted_text_may_span_lines(tmp_path):
    assert read(tmp_path / "data.csv", 'text,label\n"one\ntwo",a\nthree,b\nx,b\n').texts[0] == "one\ntwo"


def test_a_line_of_a_megabyte(tmp_path):
    """Python's csv would refuse fields of 131,072 characters, and other readers in the process keep that limit."""
    before = csv.field_size_limit()
    found = read(tmp_path / "data.csv", f"text,label\n{'x ' * 500_000},a\ny,b\nz,b\n")
    assert len(found.texts[0]) == 1_000_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("text,label\n", "holds no rows below its header"),
        (
            "review,label\nx,a\n",
            "line 1: there is no column 'text'; give --text-column one of those there: 'rev",
        ),
        (
            "text;stars\nx;a\n",
            "there is no column 'label'; give --label-column one of those there: 'text', 'stars'",
        ),
        ("text,text,label\nx,y,a\n", "has 2 columns 'text'"),
        ("text,label\nx,a\ny,a\n", "all 2 texts are of one class, 'a'"),
        ("text,label\nx,a\ny,b\n", "each of the 2 texts has a class of its own"),
        (
            "text,label\nx,a\ny, and z,b\n",
            r"line 3: 3 fields under 2 columns \(delimiter: comma\); quote fields",
        ),
        ("text,label\nx,a\ny\n", "line 3: 1 fields under 2 columns"),
        ("text,label\nx,a\n ,b\n", "line 3: 'text' is empty; fill it in or remove the row"),
        ("text,label\nx,a\ny,\n", "line 3: 'label' is empty"),
        ('text,label\nx,a\n"y,b\n', "line 3: unexpected end of data; a quoted field must be closed"),
        (CSV.replace("o", "é").encode("utf-16-le"), "line 1: a zero byte.* iconv -f utf-16le"),
        ('text,label\nx,a\n"y,b\nz,b\nz,b\n', "line 3: unexpected end of data"),
        (b"text,label\nx,a\ncaf\xe9,b\n", "line 3: byte 0xe9 is not utf-8; convert the file, as in: iconv"),
        ("text,label\n".encode("utf-16") + b"\xd8", "is not utf-16"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "data.csv", content)
    assert "\n" not in str(caught.value)
    assert "data.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"text": "x", "label": "a"}\n{"text": ',
            "line 2: Expecting value; each line must be one JSON object",
        ),
        ('["x"]', r"line 1: '\[\"x\"\]' is no JSON object"),
        (
            '{"text": "x", "stars": 3}',
            "line 1: there is no 'label'; give --label-column one of those there: 'text', 's",
        ),
        (
            '{"text": null, "label": "a"}',
            "line 1: 'text' must be a string, got NoneType; check --text-column",
        ),
        ('{"text": "x", "label": ["a"]}', "line 1: 'label' must be a string, got list"),
        ('{"text": "x", "label": NaN}', "line 1: 'label' must be a string, got NaN"),
        ('{"text": 3.5, "label": "a"}', "line 1: 'text' must be a string, got float; check --text-column"),
        ('{"text": "\\ud83d", "label": "a"}', r"data.jsonl, line 1: half of a character"),
    ],
)
def test_bad_json_lines_are_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "data.jsonl", content)
    assert "\n" not in str(caught.value)


def test_a_label_may_be_any_integer(tmp_path):
    content = "".join(f'{{"text": "x", "label": {label}}}\n' for label in (10**400, 10**400, 2, 2))
    assert read(tmp_path / "data.jsonl", content).classes == [str(10**400), "2"]


def test_one_column_is_not_both(tmp_path):
    with pytest.raises(
        ValueError, match="--text-column and --label-column must be different columns, got 'id'"
    ):
        read(tmp_path / "data.csv", CSV, text_column="id", label_column="id")


@pytest.mark.parametrize("name", ["data.xlsx", "data.parquet", "data.json", "data.csv.gz"])
def test_other_kinds_of_files_are_refused_with_what_to_do(tmp_path, name):
    with pytest.raises(ValueError, match=r"is not read here; (save|write|unpack)"):
        read(tmp_path / name, CSV)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        read_labelled_texts(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_labelled_texts(tmp_path / "no.csv")
