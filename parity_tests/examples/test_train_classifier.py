import re

import numpy as np
import pytest
import train_classifier
from text_data import load_corpus
from train_classifier import Options

WORDS = {"fruit": ["apple", "pear", "plum", "fig"], "metal": ["iron", "zinc", "tin", "lead"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Texts whose class one word tells, among words that tell nothing."""
    random = np.random.default_rng(0)
    lines = ["kind,words"]
    for row in range(96):
        kind = ("fruit", "metal")[row % 2]
        words = [f"f{n}" for n in random.integers(0, 30, random.integers(2, 7))]
        words.insert(0, str(random.choice(WORDS[kind])))
        lines.append(f"{kind},{' '.join(words)}")
    path = tmp_path_factory.mktemp("data") / "kinds.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(table):
    return Options(
        data=table,
        text_column="words",
        label_column="kind",
        steps=60,
        batch_size=16,
        learning_rate=1e-2,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        vocab_size=300,
        max_tokens=8,  # one width, so one compilation
    )


@pytest.fixture(scope="module")
def jax_run(options):
    return train_classifier.train(options)


def test_the_loss_falls_and_the_test_is_passed(jax_run):
    losses = jax_run.losses["jax"]
    assert len(losses) == 60
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    assert jax_run.accuracy["jax"] > jax_run.majority + 0.2


def test_a_seed_fixes_the_run_and_dropout_draws_anew_each_step(options, jax_run):
    corpus = load_corpus(
        options.data, "words", "kind", options.held_out, options.vocab_size, options.max_tokens, options.seed
    )
    trainers = train_classifier.make_trainers(corpus, options)
    assert train_classifier.fit(trainers, corpus, options) == jax_run.losses
    # The learning rate has come down to 0. One step more leaves the weights where they are, so that only the
    # masks of dropout can tell the next loss on the same batch from this one.
    batch = corpus.batch(np.arange(16))
    step = trainers["jax"].step
    assert float(step(*batch)) != float(step(*batch))


def test_both_frameworks_agree_to_rounding(options, capsys):
    result = train_classifier.train(train_classifier.replace(options, framework="both", steps=10))
    ours, theirs = np.array(result.losses["jax"]), np.array(result.losses["torch"])
    assert len(ours) == len(theirs) == 10
    # The first loss is rounding in one forward pass. Each update may then add some of its own.
    eps = np.finfo(np.float32).eps
    assert abs(ours[0] - theirs[0]) <= 4 * eps * abs(theirs[0])
    np.testing.assert_allclose(ours, theirs, rtol=100 * eps)
    assert ours[-1] < ours[0] - 0.01
    assert "dropout is off" in capsys.readouterr().out


def test_torch_alone(options):
    result = train_classifier.train(train_classifier.replace(options, framework="torch"))
    assert list(result.losses) == ["torch"]
    assert np.mean(result.losses["torch"][-3:]) < 0.5 * np.mean(result.losses["torch"][:3])


def test_both_frameworks_take_the_same_learning_rates():
    options = Options(steps=10, warmup=0.3, learning_rate=0.5)
    rates = [float(train_classifier.learning_rate(options, step)) for step in range(10)]
    np.testing.assert_allclose(rates[:4], [0.5 / 3, 1 / 3, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(rates[4:], [0.5 * left / 7 for left in (6, 5, 4, 3, 2, 1)], rtol=1e-6)


def command_line(capsys, *arguments):
    """The exit status and the one line of the error."""
    status = train_classifier.main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("train_classifier: ")
    return status, lines[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", 0], "--steps must be from 1 to .*, got 0"),
        (["--batch-size", 0], "--batch-size must be from 1"),
        (["--num-layers", 0], "--num-layers must be from 1"),
        (["--num-heads", 3], "--num-heads must divide --hidden-size, got 3 heads for a width of 128"),
        (["--num-heads", 0], "--num-heads must be at least 1"),
        (["--max-tokens", 1], "--max-tokens must be from 2"),
        (["--learning-rate", "nan"], "--learning-rate must be from .*, got nan"),
        (["--warmup", 1.5], "--warmup must be from 0.0 to 1.0, got 1.5"),
        (["--dropout", 1], "--dropout must be from 0.0 to 0.9, got 1.0"),
        (["--held-out", 0], "--held-out must be from 0.01 to 0.9, got 0.0"),
        (["--seed", -1], "--seed must be from 0"),
        (["--data", "absent.csv"], "No such file or directory: 'absent.csv'"),
    ],
)
def test_a_bad_option_is_told_in_one_line(capsys, arguments, told):
    status, line = command_line(capsys, *arguments)
    assert status == 2
    assert re.search(told, line)


def test_bad_data_is_told_in_one_line(capsys, tmp_path, table):
    empty, latin, alone = (tmp_path / f"{name}.csv" for name in ("empty", "latin", "alone"))
    empty.touch()
    latin.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    alone.write_text("text,label\nx,a\ny,a\n")
    for path, told in [
        (empty, "must have one column 'text'"),
        (latin, "is not UTF-8 text"),
        (alone, "at least two labels"),
        (table, r"must have one column 'text' \(--text-column\), its header is \['kind', 'words'\]"),
        (tmp_path, "Is a directory"),
    ]:
        status, line = command_line(capsys, "--data", path)
        assert status == 2
        assert re.search(told, line)


def test_the_command_that_fetches_the_data_is_told(capsys, monkeypatch, tmp_path):
    absent = tmp_path / "vaderSentiment-0.5.zip"
    monkeypatch.setattr("text_data.DEFAULT_DATA", absent)
    status, line = command_line(capsys, "--data", absent)
    assert status == 2
    assert "fetch it with: pip download --no-deps --no-binary :all: --dest" in line
    assert line.endswith("vaderSentiment==0.5")


def test_help_explains_the_options(capsys):
    with pytest.raises(SystemExit) as caught:
        train_classifier.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "longer texts are cut" in shown
    assert "What can be set" not in shown
