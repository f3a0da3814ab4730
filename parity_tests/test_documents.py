"""What README and docs/ show works: every block of Python runs as it stands, every command line is one."""

import ast
import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from parity_tests.documents import DOCUMENTS, NOTEBOOKS, ROOT, DryRun, blocks, code_of, command_lines

README = ROOT / "README.md"
README_BLOCKS = blocks(README, "python")
PAGES = [page for page in DOCUMENTS if page != README and blocks(page, "python")]
FILE = re.compile(r"# (\w+\.py)\n")  # the first line of a block that is a file


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture
def what_they_read(tmp_path, monkeypatch):
    """A folder with the files that blocks read, and modules of the reader's own."""
    from flax import nnx
    from torch import nn

    from jax_attn.models import Bert
    from jax_attn.weights import save_pretrained

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # files of a page find one another
    save_pretrained(Bert(31, 12, 1, 3, 17, max_position_embeddings=5, rngs=nnx.Rngs(0)), Path("path/to/bert"))
    reviews = [f'"it was {word}, and long",{word}' for word in ("good", "bad") for _ in range(20)]
    Path("reviews.csv").write_text("\n".join(["review,stars", *reviews]), encoding="utf-8")
    one_device(monkeypatch)
    return {
        "module": nnx.Linear(3, 5, rngs=nnx.Rngs(0)),
        "torch_module": nn.Linear(3, 5),
        "MyModel": lambda rngs: nnx.Linear(3, 5, rngs=rngs),
        "batch": {"x": np.ones((2, 3), np.float32)},
        "train_step": lambda model, batch: model(batch["x"]).mean(),
    }


def one_device(monkeypatch) -> None:
    """Meshes that pages name are made of the one device that the tests have."""
    from jax_attn import training

    make = training.make_mesh
    monkeypatch.setattr(training, "make_mesh", lambda axes: make(re.sub(r"=\d+", "=1", axes)))


# They run for many seconds, operation by operation, and what they call is shown elsewhere.
DECODING = ("cache = ", "head_view(record_text(")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=[pytest.mark.slow] * any(word in block for word in DECODING))
        for block in README_BLOCKS
    ],
    ids=[block.split("\n")[0][:40] for block in README_BLOCKS],
)
def test_a_block_of_the_readme_runs_alone(block, what_they_read):
    exec(compile(block, "README.md", "exec"), {"__name__": "readme", **what_they_read})


def run_page(page: Path, given: dict) -> dict:
    """Run a page's blocks in order, as whoever reads on does; those that are files are written too."""
    namespace = {"__name__": page.stem, **given}
    for block in blocks(page, "python"):
        if file := FILE.match(block):
            Path(file[1]).write_text(block, encoding="utf-8")
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


LONG = ("build.md", "beside.md", "train.md")  # models and trainings


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG)) for page in PAGES],
    ids=names_of(PAGES),
)
def test_the_blocks_of_a_page_run(page, what_they_read):
    run_page(page, what_they_read)


def test_the_port_of_the_readme_is_a_port(tmp_path, capsys):
    """It is what `jax-attn diff` takes, and has the mistake that the text speaks of."""
    (block,) = [block for block in README_BLOCKS if block.startswith("# port.py")]
    (tmp_path / "port.py").write_text(block)
    assert diff(tmp_path / "port.py") == 1
    assert "eps: flax 1e-06, torch 1e-05" in capsys.readouterr().out


def test_every_page_says_in_its_first_line_who_it_is_for():
    for page in set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "catalogue.md"}:  # which is generated
        _, first = [line for line in page.read_text(encoding="utf-8").splitlines() if line][:2]
        assert first.startswith("For "), f"{page.name}: {first}"


def said(output: str) -> list[str]:
    """Its lines without numbers, which differ from run to run, and without how many lanes there were."""
    lines = re.sub(r"-?\d[\d.]*(e[+-]?\d+)?", "#", output).replace("# lanes", "# lane").splitlines()
    return [" ".join(line.split()) for line in lines]


def assert_shown(page: Path, number: int, output: str) -> None:
    """The page's block of output, the `number`-th, is what the tool writes; in float64, which is enough."""
    block = blocks(page, "text")[number]
    other_lanes = ("float32", "bfloat16", "dropout", "...")
    shown = "\n".join(line for line in block.splitlines() if not line.strip().startswith(other_lanes))
    assert [line for line in said(shown) if line not in said(output)] == []


EXACT = ("--lanes", "float64", "dropout")  # and in the latter nothing is to be done


def test_the_first_page_goes_from_red_to_green(tmp_path, capsys):
    page, port = ROOT / "docs" / "index.md", tmp_path / "port.py"
    with_names = "".join(first_two := blocks(page, "python")[:2])
    port.write_text(first_two[0])
    assert diff(port, *EXACT) == 2
    error = said(capsys.readouterr().err)[0]
    *told, _ = said(blocks(page, "text")[0].replace("\n", " ").replace("...", "\n"))
    assert all(part in error for part in told)
    port.write_text(with_names)
    assert diff(port, *EXACT) == 1
    assert_shown(page, 1, capsys.readouterr().out)
    port.write_text(
        with_names.replace("nnx.LayerNorm(16, rngs=rngs)", "nnx.LayerNorm(16, epsilon=1e-5, rngs=rngs)")
    )
    assert diff(port, *EXACT) == 0
    assert_shown(page, 2, capsys.readouterr().out)


@pytest.mark.slow
def test_the_guide_goes_from_red_to_green(what_they_read, capsys):
    from jax_attn.cli.main import main

    page = ROOT / "docs" / "guides" / "verify.md"
    run_page(page, what_they_read)
    assert diff("layer_port.py", "--lanes", "float64") == 1
    assert_shown(page, 0, capsys.readouterr().out)
    layer = Path("layer.py")
    layer.write_text(layer.read_text().replace("mask=padding[", "mask=~padding["))
    sys.modules.pop("layer")  # diff reads the file anew, but for its neighbours
    assert diff("layer_port.py", "--lanes", "float64") == 0
    assert_shown(page, 1, capsys.readouterr().out)
    assert diff("layer_port.py:training", "--train", "--lanes", "float64") == 1
    assert_shown(page, 2, capsys.readouterr().out)
    assert main(["trace", "layer_port.py", "--out", "recorded"]) == 0
    capsys.readouterr()
    assert diff("layer.py", "--against", "recorded") == 0
    assert_shown(page, 3, capsys.readouterr().out)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=names_of(NOTEBOOKS))
def test_a_notebook_compiles_and_imports_what_there_is(notebook):
    program = ast.parse(code_of(notebook), str(notebook))
    compile(program, str(notebook), "exec")
    imports = [node for node in ast.walk(program) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), str(notebook), "exec"), {})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=names_of(NOTEBOOKS))
def test_a_notebook_is_small_and_was_saved_without_an_error(notebook):
    assert notebook.stat().st_size < 200_000
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert "For those who" in "".join(cells[0]["source"])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=names_of(NOTEBOOKS))
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    """Its assertions hold, with a stand-in for what draws charts."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(notebook), str(notebook), "exec"), {"__name__": "notebook"})


LINES = {line: document for document in DOCUMENTS for line in command_lines(document)}


@pytest.fixture(scope="module")
def dry_run():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield DryRun(monkeypatch)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_one(line, dry_run, capsys):
    assert dry_run.status(line) == 0, capsys.readouterr().err


def test_the_synopsis_of_the_readme_has_flags_that_there_are(capsys):
    from jax_attn.cli.main import main

    (synopsis,) = [block for block in blocks(README, "") if block.startswith("jax-attn list")]
    for line in synopsis.splitlines():
        words = ["train", "lm"] if line.split()[1] == "train" else line.split()[1:2]
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        told = capsys.readouterr().out
        assert [flag for flag in re.findall(r"--[a-z-]+", line) if flag not in told] == []


def test_a_renamed_flag_is_refused(dry_run):
    """What the test above is for."""
    for line in ("jax-attn diff port.py --pages x.html", "jax-attn train lm --meshes x", "make verfy"):
        with contextlib.redirect_stderr(io.StringIO()):
            assert dry_run.status(line) != 0, line


def diff(*arguments) -> int:
    from jax_attn.cli.main import main

    return main(["diff", *map(str, arguments)])
