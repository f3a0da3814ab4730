"""`jax-attn diff` as a user types it: the report, its files, the exit status, one line for what is wrong."""

import importlib
import json
import xml.etree.ElementTree as xml

import pytest
import torch
from flax import nnx

from jax_attn.cli.main import main
from jax_attn.parity.cases import Case
from jax_attn.parity.port import FIELDS, Port
from jax_attn.parity.report import Report
from jax_attn.parity.training.report import TrainingReport

FILE = '''
"""A port of a layer, and what people return in its place."""

from dataclasses import dataclass

import numpy as np
import torch
from flax import linen, nnx
from neighbour import EPSILON

x = np.random.default_rng(0).standard_normal((2, 3))


class Flax(nnx.Module):
    def __init__(self, epsilon):
        self.norm = nnx.LayerNorm(3, epsilon=epsilon, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(3, 5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.out(self.norm(x))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = torch.nn.LayerNorm(3), torch.nn.Linear(3, 5)

    def forward(self, x):
        return self.out(self.norm(x))


@dataclass
class Both:
    flax: object
    torch: object
    inputs: object


def pair(epsilon=EPSILON):
    return Flax(epsilon), Torch(), (x,)


def wrong():
    return Flax(1e-3), Torch(), x


def named():
    return {
        "flax": Flax(EPSILON), "torch": Torch(), "inputs": {"x": x}, "title": "of this name",
        "call_torch": lambda module, x: module(x), "call_flax": lambda module, x: module(x),
    }


def dataclass_():
    return Both(*pair())


def trains():
    import optax

    y = np.ones((2, 5))
    return *pair(), [(x, y)] * 2, (loss, loss), (optax.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1))


def trains_otherwise():
    import optax

    return *trains()[:5], (optax.sgd(0.2), trains()[5][1])


def loss(module, x, y):
    return ((module(x) - y) ** 2).mean()


def returns_nothing():
    pass


def returns_two_lists():
    return [], []


def returns_swapped():
    return Torch(), Flax(EPSILON), (x,)


def returns_linen():
    return linen.Dense(3), Torch(), (x,)


def returns_the_class():
    return Flax(EPSILON), Torch, (x,)


def returns_a_typo():
    return {"flax": Flax(EPSILON), "torch": Torch(), "input": (x,)}


def returns_no_torch():
    return {"flax": Flax(EPSILON), "inputs": (x,)}


def returns_text():
    return Flax(EPSILON), Torch(), "x"


def raises():
    return np.zeros((2, 3)) @ np.zeros((2, 3))


def exits():
    raise SystemExit("enough")


def renamed():
    port = Flax(EPSILON)
    return nnx.Dict(scale=port.norm, head=port.out), Torch(), (x,)


def takes(an_argument):
    return pair()


def torch_raises():
    return Flax(EPSILON), Torch(), (x[:, :2],)


def bad(name, value):
    return {"flax": Flax(EPSILON), "torch": Torch(), "inputs": (x,), name: value}


def bad_names():
    return bad("names", {"a": "b"})


def bad_regex():
    return bad("names", [("(", "b")])


def bad_seed():
    return bad("seed", "x")


def bad_modules():
    return bad("modules", [("norm", "norm")])


def bad_whole_model():
    return bad("whole_model", "yes")


def bad_steps():
    return bad("steps", 0)


def bad_loss():
    return bad("loss", loss)


def bad_weights():
    return bad("weights", "jax")


def other_weights():
    return Flax(EPSILON), torch.nn.Linear(3, 5), (x,)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("port")
    (folder / "neighbour.py").write_text("EPSILON = 1e-5\n")
    (folder / "port.py").write_text(FILE)
    return folder / "port.py"


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main(["diff", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refusal(capsys, *arguments) -> str:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("jax-attn: ")
    assert err.count("\n") == 1
    return err


def test_a_port_that_agrees(capsys, file, tmp_path):
    files = ("--json", tmp_path / "found.json", "--junit", tmp_path / "found.xml")
    status, out, _ = run(capsys, file, "--lanes", "float64", "float32", "dropout", *files)
    assert status == 0
    assert out.startswith("port.py: passed, 12 comparisons in 2 lanes")
    assert "training mode changes nothing" in out
    assert "first divergence" not in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"]
    assert found["report"]["compared"] == 12
    assert found["trace"] is found["training"] is None
    suites = xml.parse(tmp_path / "found.xml").getroot()
    (suite,) = suites
    for element in (suites, suite):
        counts = [int(element.get(key)) for key in ("tests", "failures", "errors", "skipped")]
        assert counts == [13, 0, 0, 1]
    assert {case.get("classname") for case in suite} == {
        f"port.py.{lane}" for lane in ("float64", "float32", "dropout")
    }
    assert {"output output", "gradient norm.weight", "input gradient input 0"} <= {
        case.get("name") for case in suite
    }


def test_a_port_that_differs_names_the_module(capsys, file, tmp_path):
    page = tmp_path / "found.html"
    files = ("--json", tmp_path / "found.json", "--junit", tmp_path / "found.xml", "--html", page)
    status, out, _ = run(capsys, f"{file}:wrong", "--lanes", "float64", *files)
    assert status == 1
    verdict, where, why, lanes, tensors, written = (out.index(word) for word in (
        "port.py:wrong: FAILED", "first divergence, forward: norm (LayerNorm)",
        "cause, certain in norm (LayerNorm): eps: flax 0.001, torch 1e-05", "worst output", "detail", "wrote"
    ))  # fmt: skip
    assert 0 == verdict < where < why < lanes < tensors < written
    assert "isolated: DIFFERS" in out[where:why]
    assert out[written:].split("\n") == [f"wrote {path}" for path in (files[1], page, files[3])] + [""]
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found)[:4] == ["verdict", "where", "why", "passed"]
    assert (found["verdict"], found["passed"]) == ("failed", False)
    assert found["where"].startswith("first divergence, forward: norm (LayerNorm)")
    assert found["why"].startswith("cause, certain in norm (LayerNorm): eps")
    assert found["report"]["first_divergence"]["flax_path"] == "norm"
    assert found["diagnosis"]["certainty"] == "certain"
    assert "cause, certain in norm (LayerNorm)" in page.read_text()
    assert "first divergence" in page.read_text()
    assert [call["flax"] for call in found["trace"]["calls"]] == ["", "norm", "out"]
    (suite,) = xml.parse(tmp_path / "found.xml").getroot()
    failed = [case for case in suite if case.find("failure") is not None]
    assert failed[0] is suite[0]
    assert "cause, certain in norm (LayerNorm)" in failed[0].find("failure").text
    assert int(suite.get("failures")) == len(failed) > 1
    message = {case.get("name"): case.find("failure").get("message") for case in failed}
    assert "bound 1e-12" in message["output output"]
    first = message["first divergence: norm"]
    assert first.startswith("first divergence, forward: norm (LayerNorm)")
    assert first.endswith("; cause, certain in norm (LayerNorm): eps: flax 0.001, torch 1e-05")
    assert failed[0].find("failure").text.startswith("port.py:wrong: FAILED")


@pytest.mark.parametrize("function", ["named", "dataclass_"])
def test_what_a_function_may_return(capsys, file, function):
    status, out, _ = run(capsys, f"{file}:{function}", "--lanes", "float64")
    assert status == 0
    assert out.startswith("of this name: " if function == "named" else "port.py:dataclass_: ")


def test_trainings_are_compared_too(capsys, file, tmp_path):
    where = tmp_path / "found.xml"
    status, out, _ = run(capsys, f"{file}:trains", "--train", "--lanes", "float64", "--junit", where)
    assert status == 0
    assert "port.py:trains, training: passed" in out
    assert len(list(xml.parse(where).getroot())) == 2
    status, out, _ = run(
        capsys, f"{file}:trains_otherwise", "--train", "--lanes", "float64", "--junit", where
    )
    assert status == 1
    assert "port.py:trains_otherwise: passed" in out
    assert "settings that differ:\n  learning rate: flax 0.2, torch 0.1" in out
    assert "first divergence: float64, in step 0: learning rate" in out
    headlines = out.splitlines()[:2]
    assert "otherwise: passed" in headlines[0]
    assert "otherwise, training: FAILED" in headlines[1]
    training, forward = xml.parse(where).getroot()  # what fails comes first
    assert int(forward.get("failures")) == 0
    assert int(training.get("failures")) > 0
    assert training[0].get("name") == "first divergence: learning rate"
    assert "learning rate: flax 0.2, torch 0.1" in training[0].find("failure").text.partition("\n\n")[2]


def test_a_bad_place_is_told(capsys, file, tmp_path):
    assert "no file" in refusal(capsys, tmp_path / "nowhere.py")
    (tmp_path / "notes.txt").write_text("")
    assert "no Python file" in refusal(capsys, tmp_path / "notes.txt")
    message = refusal(capsys, f"{file}:pear")
    assert "no function pear" in message
    assert "it has pair, wrong" in message
    assert "did you mean" in message
    (tmp_path / "empty.py").write_text("")
    assert "it has no functions" in refusal(capsys, tmp_path / "empty.py")
    assert "missing" in refusal(capsys, file, "--junit", tmp_path / "missing" / "found.xml")


def test_a_bad_file_names_its_own_line(capsys, file, tmp_path):
    line = FILE.splitlines().index("    return np.zeros((2, 3)) @ np.zeros((2, 3))") + 1
    message = refusal(capsys, f"{file}:raises")
    assert f"port.py:{line} in raises() (`return np.zeros((2, 3)) @" in message
    assert "raised ValueError: matmul" in message
    assert "raised SystemExit: enough" in refusal(capsys, f"{file}:exits")
    (tmp_path / "broken.py").write_text("x = 1\nx = (\n")
    assert "broken.py:2: '(' was never closed" in refusal(capsys, tmp_path / "broken.py")
    (tmp_path / "lacking.py").write_text("\nimport nothing_of_this_name\n")
    message = refusal(capsys, tmp_path / "lacking.py")
    assert "lacking.py:2 on import (`import nothing_of_this_name`)" in message
    assert "raised ModuleNotFoundError" in message


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("returns_nothing", "it returned None; expected (flax module, torch module, inputs)"),
        ("returns_two_lists", "its flax module is a list of 0"),
        ("returns_swapped", "the torch module first"),
        ("returns_linen", "flax.nnx.bridge.ToNNX"),
        ("returns_the_class", "its torch module is the class Torch itself"),
        ("returns_a_typo", "'input' that means nothing here; did you mean 'inputs'?"),
        ("returns_no_torch", "no torch module"),
        ("returns_text", "its inputs are a str"),
        ("bad_names", "names must be a list of pairs (pattern, replacement)"),
        ("bad_regex", "no regular expression: missing )"),
        ("bad_seed", "seed must be an integer from 0 up, got 'x'"),
        ("bad_modules", "modules must be a dict of Flax paths to torch paths, or to None, got a list"),
        ("bad_whole_model", "whole_model must be True or False, got 'yes'"),
        ("bad_steps", "steps must be an integer from 1 up, got 0"),
        ("bad_loss", "loss must be a pair of functions"),
        ("bad_weights", 'weights must be "torch", "flax" or None, got \'jax\''),
        ("takes", "without arguments: missing a required argument: 'an_argument'"),
    ],
)
def test_a_bad_port_says_what_it_is(capsys, file, function, told):
    message = refusal(capsys, f"{file}:{function}")
    assert told in message
    assert f"port.py:{function}" in message


def test_other_names_are_told_with_the_place_where_they_go(capsys, file):
    message = refusal(capsys, f"{file}:renamed")
    assert "('\\\\bhead\\\\b', 'out'), ('\\\\bscale\\\\b', 'norm')] makes all of it fit" in message
    assert '"names": [...]}' in message


def test_bad_weights_are_all_told(capsys, file):
    status, _, err = run(capsys, f"{file}:other_weights")
    assert status == 2
    assert "missing: norm.weight" in err
    assert "pass weights=None" in err.splitlines()[-1]


def test_every_entry_reaches_the_comparisons(monkeypatch):
    module = importlib.import_module("jax_attn.cli.diff")
    pair = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    shared = {"names": [("a", "b")], "whole_model": True, "seed": 7}
    forward = {"modules": {"": ""}, "weights": "flax", "call_flax": len, "call_torch": abs}
    trained = {"clip": (min, max), "training": False}
    rest = {"batches": [(1,)], "loss": (min, max), "optimizer": (len, abs), "steps": 3, "title": "it"}
    port = Port.of(dict(flax=pair[0], torch=pair[1], inputs=(1,), kwargs={"mask": 2}) | shared | forward
                   | trained | rest)  # fmt: skip
    given = []

    def taken(report):
        return lambda *args, **options: given.append((args, options)) or report

    monkeypatch.setattr(module, "compare_cases", taken(Report()))
    monkeypatch.setattr(module, "compare_training", taken(TrainingReport()))
    monkeypatch.setattr(module, "lint_pair", taken([]))
    module.found(port, None, ["float32", "dropout"], True, lambda lane, what: None)
    (cases, compared), (batches, training), (lint, _) = given
    assert cases == (*pair, [Case("", (1,), {"mask": 2})])
    for options, expected, lanes in (
        (compared, shared | forward | {"title": "it"}, ["float32", "dropout"]),
        (training, shared | trained | {"title": "it, training"}, ["float32"]),
    ):
        assert {name: options[name] for name in expected} == expected
        assert options["lanes"] == lanes
    assert batches == (*pair, *(rest[name] for name in ("batches", "loss", "optimizer", "steps")))
    assert lint == (*pair, shared["names"], forward["modules"])


@pytest.mark.parametrize(("name", "value"), [("seed", True), ("steps", True), ("seed", -1), ("title", 1)])
def test_a_truth_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        Port.of({"flax": nnx.Linear(3, 5, rngs=nnx.Rngs(0)), name: value})


def test_a_bad_training_says_what_is_lacking(capsys, file):
    assert '"batches"' in refusal(capsys, file, "--train")
    assert "--lanes" in refusal(capsys, f"{file}:trains", "--train", "--lanes", "bfloat16")


def test_a_setting_that_differs_is_told_where_all_agrees(capsys, file, tmp_path):
    files = ("--json", tmp_path / "found.json", "--html", tmp_path / "page.html")
    status, out, _ = run(capsys, file, "--lanes", "float64", *files)
    assert status == 0
    told = "norm: variance: flax E[x²] - E[x]², torch E[(x - E[x])²]"
    assert f"settings differ by their attributes, and these inputs show no difference:\n  {told}" in out
    (found,) = json.loads((tmp_path / "found.json").read_text())["settings"]
    assert (found["flax_path"], found["setting"]) == ("norm", "variance")
    assert told in (tmp_path / "page.html").read_text()


def test_where_torch_cannot_run_there_is_nothing_to_compare(capsys, file):
    status, out, _ = run(capsys, f"{file}:torch_raises", "--lanes", "float64")
    assert status == 2
    assert "torch raised RuntimeError" in out
    assert "cause" not in out


def test_one_mistake_of_the_inputs_is_told_once(capsys, file):
    _, out, _ = run(capsys, f"{file}:torch_raises")
    assert out.startswith("port.py:torch_raises: FAILED, nothing was compared\n")
    assert out.count("raised") == 1
    assert "nan" not in out


def test_a_short_report_counts_what_a_verbose_one_lists(capsys, file):
    _, short, _ = run(capsys, f"{file}:wrong", "--lanes", "float64", "float32")
    _, long, _ = run(capsys, "--verbose", "--lanes", "float64", "float32", f"{file}:wrong")
    rows = [text.count("FAILED   at") for text in (short, long)]
    assert rows == [5, 8]
    assert "... and 3 more (--verbose" in short
    assert "more" not in long


def test_files_are_written_whole_or_not_at_all(capsys, file, tmp_path):
    before = file.read_text()
    assert "would replace what this command reads" in refusal(capsys, f"{file}:wrong", "--json", file)
    both = tmp_path / "both"
    assert "--html and --json are one file" in refusal(capsys, file, "--json", both, "--html", both)
    assert "there is no folder" in refusal(capsys, file, "--html", tmp_path / "none" / "page.html")
    assert "is a folder" in refusal(capsys, file, "--html", tmp_path)
    (tmp_path / "old.json").write_text("old")
    for function in ("raises", "bad_seed", "other_weights"):
        files = ("--html", tmp_path / "page.html", "--json", tmp_path / "old.json")
        assert run(capsys, f"{file}:{function}", *files)[0] == 2
    assert file.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["diff", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    example = told.partition("inputs of a call:")[2].partition("`jax-attn diff")[0]
    scope: dict[str, object] = {}
    exec("\n".join(line.removeprefix("    ") for line in example.splitlines()), scope)
    assert len(scope["pair"]()) == 3
    assert set(scope["more"]()) == {"flax", "torch", "inputs", "title"}
    for word in [*FIELDS, "names", "0 if everything agrees", "2 if there was nothing to compare"]:
        assert word in told
    with pytest.raises(SystemExit):
        main(["--help"])
    short = capsys.readouterr().out
    assert len(short.splitlines()) < 45
    assert "1 if something differs" in short
