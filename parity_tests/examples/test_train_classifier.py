import re

import pytest
import train_classifier


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "absent.csv"], "absent.csv"),
    ],
)
def test_bad_input_is_told_in_one_line(capsys, arguments, told):
    assert train_classifier.main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"train_classifier.py: .*{told}", line)


def test_help_explains_the_options_and_a_preset_sets_several(capsys):
    with pytest.raises(SystemExit) as caught:
        train_classifier.main(["--preset", "pod", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "longer texts are cut" in shown
    assert "768" in shown
    assert "What can be set" not in shown
