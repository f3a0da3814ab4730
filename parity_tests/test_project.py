"""What surrounds the code agrees with it: workflows, templates, versions, files and commands in documents."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import jax_attn

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) - {GITHUB / "ISSUE_TEMPLATE" / "config.yml"})
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/design.md"]
name_of = lambda path: path.name  # noqa: E731


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE))


def made(text: str) -> set[str]:
    """The targets of `make` in commands."""
    return set(re.findall(r"(?:^|[`;&] ?)make ([a-z-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_is_bounded(path):
    """It may only read, a newer run replaces it, every job ends, and actions are pinned by their major version."""
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"], name
        assert job.get("needs", name) in workflow["jobs"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "none@v0")), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_what_a_workflow_runs_is_there(path):
    ran = [step["run"] for job in parsed(path)["jobs"].values() for step in job["steps"] if "run" in step]
    assert set().union(*map(made, ran), made(read(".ci/run"))) <= targets()
    installed = {"pip", "python", *tomllib.loads(read("pyproject.toml"))["project"]["scripts"]}
    for line in ran:
        command = line.split()[0]
        assert command == "make" or Path(command).parent == Path(".venv/bin"), line
        assert command == "make" or Path(command).name in installed, line


def test_every_supported_python_is_tested():
    """The classifiers of the package and the matrix of the workflow name the same."""
    classifiers = tomllib.loads(read("pyproject.toml"))["project"]["classifiers"]
    supported = [line.rpartition(" ")[2] for line in classifiers if line.startswith("Programming Language")]
    matrix = parsed(GITHUB / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == supported


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_an_issue_form_is_one(path):
    """It has what GitHub asks of a form: otherwise it is left out without a word."""
    form = parsed(path)
    assert {"name", "description", "body"} <= form.keys()
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in asked} <= {"input", "textarea", "checkboxes", "dropdown"}
    assert all(field["attributes"]["label"] for field in asked)
    assert len({field["id"] for field in asked}) == len(asked)


def test_pre_commit_runs_what_lint_runs():
    hooks = [hook for repo in parsed(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    assert [hook["entry"] for hook in hooks] == recipe.replace("$(BIN)", ".venv/bin").replace(
        "\t", ""
    ).splitlines()


def test_the_tools_that_judge_every_line_are_pinned():
    """A new release of them cannot turn a green tree red; dependabot says when there is one."""
    dev = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["dev"]
    pinned = {requirement.partition("==")[0] for requirement in dev if "==" in requirement}
    pip = next(u for u in parsed(GITHUB / "dependabot.yml")["updates"] if u["package-ecosystem"] == "pip")
    assert pinned == {"ruff", "ty"} == {allowed["dependency-name"] for allowed in pip["allow"]}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == jax_attn.__version__
    assert re.search(r"^## (\S+) \(", read("CHANGELOG.md"), re.MULTILINE)[1] == jax_attn.__version__
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["abstract"].rstrip(".") == project["description"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_what_is_there(name):
    """Targets of make, files of Python, and the files that it links to."""
    text = read(name)
    assert made(text) <= targets()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
    for file in re.findall(r"`([\w./*]+/[\w*]+\.py)`", text):
        assert any(any(tree.glob(file)) for tree in (ROOT, ROOT / "jax_attn")), file
