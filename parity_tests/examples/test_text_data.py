import itertools

import numpy as np
import pytest
import text_data
from tokenizers.decoders import ByteLevel


def table(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return text_data.read_labelled_texts(path, "text", "label")


@pytest.mark.parametrize(
    "content",
    [
        'label,id,text\na,1,"one, two"\nb,2,three\n',
        "label\tid\ttext\na\t1\tone, two\nb\t2\tthree\n",
        '\ufefflabel,id,text\r\na,1,"one, two"\r\n\r\nb,2,three\r\n',
    ],
    ids=["csv", "tsv", "spreadsheet"],
)
def test_a_table_is_read_by_its_header(tmp_path, content):
    assert table(tmp_path / "data.txt", content) == (["one, two", "three"], ["a", "b"])


def test_a_quoted_text_may_span_lines(tmp_path):
    texts, _ = table(tmp_path / "data.csv", 'text,label\n"one\ntwo",a\nthree,b\n')
    assert texts == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "must have one column 'text'"),
        ("text,label\n", "holds no texts"),
        (
            "review,label\nx,a\n",
            r"must have one column 'text' \(--text-column\), its header is \['review', 'label'\]",
        ),
        ("text,stars\nx,a\n", r"must have one column 'label' \(--label-column\)"),
        ("text,text,label\nx,y,a\n", "must have one column 'text'"),
        ("text,label\nx,a\ny,a\n", "must hold at least two labels to tell apart, got only 'a'"),
        ("text,label\nx,a\ny, and z,b\n", "line 3: 3 fields under 2 columns"),
        ("text,label\nx,a\ny\n", "line 3: 1 fields under 2 columns"),
        ("text,label\nx,a\n ,b\n", "line 3: the text or the label is empty"),
        ("text,label\nx,a\ny,\n", "line 3: the text or the label is empty"),
        ('text,label\nx,a\n"y,b\n', "line 3: unexpected end of data"),
    ],
)
def test_a_bad_table_is_told_in_one_line(tmp_path, content, told):
    with pytest.raises(ValueError, match=told) as caught:
        table(tmp_path / "data.csv", content)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8(tmp_path):
    with pytest.raises(ValueError, match="is not UTF-8 text: byte 14 is 0xe9"):
        table(tmp_path / "data.csv", "text,label\ncaf\xe9,a\n", encoding="latin-1")


def test_a_broken_archive(tmp_path):
    for name in ("data.zip", "data.tar.gz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(ValueError, match="is broken, or not the archive"):
            text_data.read_labelled_texts(tmp_path / name, "text", "label")


def test_the_split_keeps_equal_texts_together():
    texts = [f"Text  {i % 40}" if i % 2 else f"text {i % 40} " for i in range(200)]
    held_out = text_data.hold_out(texts, 0.25, seed=0)
    sides = {}
    for text, side in zip(texts, held_out, strict=True):
        sides.setdefault(" ".join(text.split()).casefold(), set()).add(bool(side))
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 10


def test_the_split_is_fixed_by_its_seed_and_never_empty():
    texts = list("abcdefgh")
    np.testing.assert_array_equal(text_data.hold_out(texts, 0.5, 1), text_data.hold_out(texts, 0.5, 1))
    assert not np.array_equal(text_data.hold_out(texts, 0.5, 1), text_data.hold_out(texts, 0.5, 2))
    assert text_data.hold_out(texts, 0.001, 0).sum() == 1
    assert text_data.hold_out(texts, 0.999, 0).sum() == 7
    with pytest.raises(ValueError, match="at least two different texts"):
        text_data.hold_out(["same", " Same"], 0.5, 0)


@pytest.mark.parametrize(("texts", "batch_size"), [(64, 4), (70, 4), (3, 8), (1, 1)])
def test_every_text_is_seen_once_an_epoch(texts, batch_size):
    lengths = np.random.default_rng(0).integers(2, 50, texts)
    batches = list(itertools.islice(text_data.shuffled_batches(lengths, batch_size, seed=0), 6 * texts))
    assert {len(batch) for batch in batches} == {min(batch_size, texts)}
    seen = np.bincount(np.concatenate(batches), minlength=texts)
    assert seen.max() - seen.min() <= 2  # what is drawn together may reach into the next epoch


def test_padding_takes_the_smallest_width_that_fits():
    ids, mask = text_data.pad([[2, 5, 6], [2, 7]], widths=[2, 4, 8])
    np.testing.assert_array_equal(ids, [[2, 5, 6, 0], [2, 7, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_few_widths_hold_all_lengths():
    lengths = np.random.default_rng(0).integers(2, 61, 1000)
    widths = text_data.padded_widths(lengths)
    assert len(widths) <= 5
    assert max(widths) == 60
    assert text_data.padded_widths([7, 7, 7]) == [7]


def test_a_vocabulary_is_fixed_by_its_texts_and_knows_every_text():
    texts = [f"some word{n % 7} and 단어{n % 5}" for n in range(50)]
    tokenizer = text_data.train_tokenizer(texts, 300)
    assert tokenizer.get_vocab() == text_data.train_tokenizer(texts, 300).get_vocab()
    ids = tokenizer.encode("Ünseen ☃").ids
    tokenizer.decoder = ByteLevel()
    assert ids[0] == 1
    assert tokenizer.decode(ids).strip() == "Ünseen ☃"
