import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import train_classifier
from flax import nnx
from train_classifier import Options

from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.weights import from_pretrained


@pytest.fixture(scope="module")
def options(tiny, tmp_path_factory):
    return Options(**tiny, label_column="kind", out=tmp_path_factory.mktemp("runs") / "kinds", eval_every=60)


@pytest.fixture(scope="module")
def run(options):
    return train_classifier.train(options)


def test_the_loss_falls_and_the_test_is_passed(run):
    losses = run.losses["jax"]
    assert len(losses) == 60
    assert np.mean(losses[-3:]) < 0.3 * np.mean(losses[:3])
    assert run.figures["jax"]["accuracy"] > 0.8


def test_the_report_tells_what_the_model_does(run, options, capsys):
    texts = train_classifier.load_data(options)
    capsys.readouterr()
    train_classifier.report(run, texts, options)
    lines = capsys.readouterr().out.splitlines()
    labels = texts.labelled.labels[texts.held_out]
    right = round(run.figures["jax"]["accuracy"] * len(labels))
    assert lines[0].startswith(f"jax: held-out accuracy {right / len(labels):.1%} (the majority's: ")
    table = np.array([re.findall(r" (\d+)(?= )", line) for line in lines[3:5]], int)
    np.testing.assert_array_equal(table.sum(axis=1), np.bincount(labels))
    assert table.trace() == right
    wrong = len(labels) - right
    assert len(lines) == 6 + min(wrong, options.mistakes)
    assert (options.out / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_classifies_texts(run, options, capsys):
    arguments = ["--out", str(options.out), "--predict", "a pear f1", "f2 iron " * 9]  # cut
    assert train_classifier.main(arguments) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fruit \((?:100|[5-9]\d)\.\d%\): a pear f1", first)
    assert re.fullmatch(r"metal \((?:100|[5-9]\d)\.\d%\): f2 iron( f2 iron)* ", second)


def test_no_more_of_a_text_is_read_than_in_training(run, options, tmp_path, capsys):
    out = shutil.copytree(options.out, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    record["options"]["max_tokens"] = 3  # fewer than the model has positions: the ends, and a token between
    (out / "run.json").write_text(json.dumps(record))
    assert train_classifier.main(["--out", str(out), "--predict", "f2 iron", "f2 a pear"]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.partition(":")[0] == second.partition(":")[0]


def test_its_folder_is_that_of_a_checkpoint(run, options):
    config = json.loads((options.out / "model/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "fruit", "1": "metal"}
    texts = train_classifier.load_data(options)
    batch = texts.test[0]
    saved = nnx.jit(train_classifier.scores)(from_pretrained(options.out / "model"), batch)
    trained = run.trainers["jax"].evaluate(train_classifier.scores, batch)
    np.testing.assert_allclose(saved, trained, rtol=SAME_FLOAT32, atol=SAME_FLOAT32)


@pytest.mark.slow
def test_transformers_reads_it(run, options):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = train_classifier.load_data(options)
    written = [texts.labelled.texts[row] for row in texts.held_out[texts.test.rows(0)]]
    tokenizer = AutoTokenizer.from_pretrained(options.out / "model")
    theirs = tokenizer(written, padding=True, truncation=True, max_length=8, return_tensors="pt")
    batch = texts.test[0]
    ids = theirs["input_ids"].numpy()
    np.testing.assert_array_equal(ids, batch["input_ids"][: len(ids), : ids.shape[1]])
    model = AutoModelForSequenceClassification.from_pretrained(options.out / "model")
    assert model.config.id2label == {0: "fruit", 1: "metal"}
    with torch.no_grad():
        logits = model(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"]).logits
    ours = run.trainers["jax"].evaluate(train_classifier.scores, batch)
    np.testing.assert_allclose(logits, ours[: len(ids)], rtol=SAME_FLOAT32, atol=SAME_FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("norm_placement", ["post", "pre"])
def test_both_frameworks_coincide_in_float64(options, norm_placement):
    both = replace(
        options,
        out=None,
        framework="both",
        dtype="float64",
        steps=100,
        norm_placement=norm_placement,
    )
    losses = train_classifier.train(both).losses
    ours, theirs = np.array(losses["jax"]), np.array(losses["torch"])
    assert ours.shape == theirs.shape == (100,)
    assert ours[-1] < ours[0] - 0.01
    assert abs(ours - theirs).max() <= 1e-8


def test_fine_tuning_starts_from_a_checkpoint_in_both_frameworks(run, options, capsys):
    tuned = replace(
        Options(from_pretrained=options.out / "model", framework="both", steps=1, max_tokens=8),
        data=options.data,
        text_column="words",
        label_column="kind",
        batch_size=16,
    )
    losses = train_classifier.train(tuned).losses
    assert losses["jax"][0] == pytest.approx(losses["torch"][0], rel=1e-5)
    assert losses["jax"][0] < 0.3 * run.losses["jax"][0]


def told(capsys, status, *arguments):
    """The one line of the error."""
    assert train_classifier.main([str(argument) for argument in arguments]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("train_classifier.py: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 0], "--steps must be from 1 to .*, got 0"),
        (["--num-layers", 0], "--num-layers must be from 1"),
        (["--num-heads", 3], "--num-heads must divide --hidden-size, got 3 heads for a width of 128"),
        (["--max-tokens", 1], "--max-tokens must be from 3"),
        (["--dropout", 1], r"--dropout must be from 0\.0 to 0\.9, got 1\.0"),
        (["--held-out", 0], "--held-out must be"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--predict", "a text"], "--predict needs --out"),
        (["--predict", "a text", "--out", "absent"], "absent"),
        (["--from-pretrained", "absent"], "absent"),
        (["--from-pretrained", "absent", "--hidden-size", 64], "--hidden-size is fixed by --from-pretrained"),
    ],
)
def test_a_bad_option_is_told_in_one_line(capsys, monkeypatch, table, arguments, message):
    if "--data" not in arguments:
        arguments = [*arguments, "--data", table, "--text-column", "words", "--label-column", "kind"]
    assert re.search(message, told(capsys, 2, *arguments))


def test_bad_data_is_told_in_one_line(capsys, tmp_path, table):
    empty, latin, alone = (tmp_path / f"{name}.csv" for name in ("empty", "latin", "alone"))
    empty.touch()
    latin.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    alone.write_text("text,label\nx,a\ny,a\n")
    for path, message in [
        (empty, "is empty"),
        (latin, "line 2: .* is not (?i:utf-8)"),
        (alone, "one class, 'a'"),
        (table, "'text'.*--text-column"),
        (tmp_path, "directory|folder"),
    ]:
        assert re.search(message, told(capsys, 2, "--data", path))


def test_a_small_vocabulary_is_told_in_one_line(capsys, table):
    columns = ["--text-column", "words", "--label-column", "kind"]
    assert "--vocab-size must be at least" in told(capsys, 2, "--data", table, *columns, "--vocab-size", 7)


def test_help_explains_the_options_and_a_preset_sets_several(capsys):
    with pytest.raises(SystemExit) as caught:
        train_classifier.main(["--preset", "pod", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "longer texts are cut" in shown
    assert "768" in shown
    assert "What can be set" not in shown


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (["--from-pretrained", "DIR", "--data", "sentiment"], "fine-tune"),
        (["--data", "sentiment"], "sentiment"),
        (["--data=sentiment"], "sentiment"),
        (["--data", "sentiment", "--preset", "laptop"], "laptop"),
        (["--data", "mine.csv"], "laptop"),
    ],
)
def test_what_is_given_implies_a_preset(arguments, preset, capsys):
    with pytest.raises(SystemExit):
        train_classifier.main([*arguments, "--help"])
    words = re.findall(r"[^│\s]+", capsys.readouterr().out)
    assert f"(default: {preset})" in " ".join(words)


@pytest.mark.slow
def test_all_tokens_are_looked_at_and_capitals_are_not(options, tmp_path, capsys):
    chosen = replace(options, out=tmp_path, steps=2, pooling="mean", lowercase=True)
    train_classifier.train(chosen)
    assert train_classifier.main(["--out", str(tmp_path), "--predict", "A PEAR f1", "a pear F1"]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.partition(":")[0] == second.partition(":")[0]
    assert json.loads((tmp_path / "model/config.json").read_text())["architectures"] == ["SequenceClassifier"]
