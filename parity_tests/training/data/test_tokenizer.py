import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from jax_attn.training.data import character_tokenizer, load_tokenizer, train_bpe

TEXTS = [f"some word{n % 7} and 단어{n % 5}\n" for n in range(50)]


@pytest.fixture(scope="module", params=["bytes", "characters"])
def tokenizer(request):
    return train_bpe(TEXTS, 300) if request.param == "bytes" else character_tokenizer(TEXTS)


def test_special_tokens_come_first(tokenizer):
    ids = [tokenizer.pad_id, tokenizer.unknown_id, tokenizer.begin_id, tokenizer.end_id, tokenizer.mask_id]
    assert ids == tokenizer.special_ids == [0, 1, 2, 3, 4]


def test_a_text_comes_back(tokenizer):
    text = "word3 and  단어4 some\nand"
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int32
    assert (ids[0], ids[-1]) == (2, 3)
    assert tokenizer.decode(ids) == text
    np.testing.assert_array_equal(tokenizer.prompt(text), ids[:-1])
    np.testing.assert_array_equal(tokenizer.encode([text], specials=False)[0], ids[1:-1])
    assert max(ids) < tokenizer.vocab_size


def test_long_texts_are_cut_and_keep_their_end(tokenizer):
    whole, _ = tokenizer.encode(["some word and some word", "x"])
    cut, short = tokenizer.encode(["some word and some word", "s"], max_tokens=5)
    np.testing.assert_array_equal(cut, [*whole[:4], 3])
    assert len(short) <= 5
    (bare,) = tokenizer.encode(["some word and some word"], max_tokens=4, specials=False)
    np.testing.assert_array_equal(bare, whole[1:5])


def test_the_folder_is_read_back_here_and_by_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (expected,) = tokenizer.encode(["some 단어4 and"])
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(tmp_path / "tokenizer.json")):
        np.testing.assert_array_equal(loaded.encode(["some 단어4 and"])[0], expected)
        assert loaded.special_ids == tokenizer.special_ids
        assert (loaded.pad_id, loaded.begin_id, loaded.end_id, loaded.mask_id) == (0, 2, 3, 4)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("some 단어4 and")["input_ids"] == expected.tolist()
    assert (theirs.pad_token_id, theirs.mask_token_id, theirs.eos_token_id) == (0, 4, 3)
    assert theirs.decode(expected, skip_special_tokens=True) == "some 단어4 and"


def test_a_vocabulary_is_fixed_by_its_texts():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert train_bpe(TEXTS, 300).tokenizer.get_vocab() == train_bpe(TEXTS, 300).tokenizer.get_vocab()
    for make in (character_tokenizer, lambda texts: train_bpe(texts, 280)):
        assert make(TEXTS).tokenizer.get_vocab() == make(shuffled).tokenizer.get_vocab()


def test_bytes_know_every_text_and_characters_those_they_saw():
    assert 1 not in train_bpe(TEXTS, 300).encode(["Ünseen ☃"])[0]
    np.testing.assert_array_equal(character_tokenizer(["ab"]).encode(["bxa"])[0], [2, 6, 1, 5, 3])


def test_a_vocabulary_smaller_than_its_specials():
    train_bpe(TEXTS, 261)
    with pytest.raises(
        ValueError, match="--vocab-size must be at least 261, 5 special tokens and 256 bytes, got 260"
    ):
        train_bpe(TEXTS, 260)


def test_special_tokens_of_another_folder(tmp_path):
    theirs = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<M>": 3, "a": 4}, unk_token="a"))
    theirs.add_special_tokens(["<s>", "<pad>", "</s>", "<M>"])
    theirs.enable_padding(length=9)
    theirs.enable_truncation(2)
    theirs.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.pad_id, loaded.begin_id, loaded.end_id, loaded.mask_id) == (1, 0, 2, None)
    np.testing.assert_array_equal(loaded.encode(["a"])[0], [4])
    config = {"mask_token": {"content": "<M>"}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.mask_id, loaded.end_id) == (3, 2)


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*tokenizer\.json; name a folder"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json of the tokenizers library"):
        load_tokenizer(tmp_path)


def test_capitals_count_or_do_not(tmp_path):
    upper, lower = "SOME Word1", "some word1"
    for lowercase in (False, True):
        train_bpe(TEXTS, 300, lowercase=lowercase).save(tmp_path)
        first, second = load_tokenizer(tmp_path).encode([upper, lower])
        assert np.array_equal(first, second) == lowercase
