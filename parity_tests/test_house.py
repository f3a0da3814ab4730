"""The rules of the house, held by machine: the mirror, the floors, and who may import whom."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE

ROOT = Path(__file__).parent.parent
ROOMS = ("from_scratch", "nn", "models")

# Floors from the ground up; rooms in one row stand side by side and may not import each other.
FLOORS = (
    ("functional", "pages", "host_memory"),
    ("nn.primitives",),
    ("nn.positions", "from_scratch", "optim"),
    ("nn.attention",),
    ("nn.layers",),
    ("models",),
    ("weights",),
    ("parity", "training", "visualize"),
    ("catalogue",),
    ("cli", "pytest_plugin"),
    ("__main__",),
)

# Constructor arguments of torch's own classes that are not ours to mirror.
TORCH_ONLY = {"device", "dtype"}

# What has no twin, and why: files, or classes of a file.
TORCHS_OWN = "torch has this layer itself: ours takes over torch's own defaults"
LOOP = "a loop around a model, compiled: a twin is decoded by a few lines of torch in the proofs"
WITHOUT_TWIN: dict[str, str] = {
    "nn/primitives.py:Linear": TORCHS_OWN,
    "nn/primitives.py:Conv": TORCHS_OWN,
    "nn/primitives.py:Embedding": TORCHS_OWN,
    "nn/primitives.py:LayerNorm": TORCHS_OWN,
    "nn/primitives.py:Dropout": TORCHS_OWN,
    "models/generation/beam_search.py": LOOP,
    "models/generation/generate.py": LOOP,
    "models/generation/logits.py": "functions of arrays: their proofs hold them to transformers' own",
    "models/generation/prompt.py": LOOP,
    "models/generation/sampling.py": LOOP,
    "models/part.py": "from which both twins are built",
    "models/token_mask.py": "a check of what the user gives: a twin takes what it gets",
    "nn/attention/attend.py": "how heads are computed: a twin writes its scores and weights out",
    "nn/attention/cache.py": "what is kept for decoding: a twin appends to a tuple of keys and values",
    "nn/attention/seen.py": "how masks are said where blocks are skipped: a twin has all pairs",
    "nn/attention/weights.py": "how weights are captured: torch has forward hooks",
    "nn/positions/attention_positions.py:Places": "the torch twin holds all positions, as tensors",
}


def modules(tree: str, rooms: tuple[str, ...] = ROOMS) -> set[str]:
    """`room/file.py` of every module in the rooms of a tree."""
    found = (path for room in rooms for path in (ROOT / tree / room).rglob("*.py"))
    return {str(path.relative_to(ROOT / tree)) for path in found if path.name != "__init__.py"}


def public_classes(package: str, file: str) -> dict[str, type]:
    module = import_module(f"{package}.{file.removesuffix('.py').replace('/', '.')}")
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def test_every_module_has_a_twin_and_a_proof():
    flax = modules("jax_attn") - WITHOUT_TWIN.keys()
    proofs = {str(Path(p).with_name(Path(p).name.removeprefix("test_"))) for p in modules("parity_tests")}
    assert flax, "no modules found"
    assert modules("torch_ref") == flax
    # A room may hold further proofs (of several modules together), never fewer.
    assert modules("jax_attn") <= proofs


def constructor(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class that both frameworks have: a Flax class's keyword-only ones are its own."""
    _, *named = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p for p in named if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in TORCH_ONLY}


def with_twin(file: str) -> dict[str, type]:
    """The Flax modules of a file, but for those that have no twin."""
    return {
        name: kind
        for name, kind in public_classes("jax_attn", file).items()
        if issubclass(kind, nnx.Module) and f"{file}:{name}" not in WITHOUT_TWIN
    }


def described_twins(file: str) -> dict[str, type]:
    """The classes of a file without a module: what modules are given, such as a scaling of frequencies."""
    classes = public_classes("jax_attn", file)
    return {name: kind for name, kind in classes.items() if f"{file}:{name}" not in WITHOUT_TWIN}


@pytest.mark.parametrize("file", sorted(modules("jax_attn") - WITHOUT_TWIN.keys()))
def test_twins_have_the_same_constructor(file):
    flax_classes = with_twin(file) or described_twins(file)
    assert flax_classes
    torch_module = import_module(f"torch_ref.{file.removesuffix('.py').replace('/', '.')}")
    for name, flax_class in flax_classes.items():
        ours, theirs = constructor(flax_class), constructor(getattr(torch_module, name))
        assert list(ours) == list(theirs), name
        for argument in ours:
            assert ours[argument].default == theirs[argument].default, f"{name}({argument}=)"


def test_every_class_has_a_row_in_the_catalogue():
    rows = {twin.where for twin in CATALOGUE.values()}
    for file in modules("jax_attn") - WITHOUT_TWIN.keys():
        for name in with_twin(file):
            assert f"{file.removesuffix('.py').replace('/', '.')}:{name}" in rows


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(file: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            found += [(node.module or "", node.lineno)]
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def room_of(name: str) -> str:
    """The room that a module of `jax_attn` stands in: `nn` has rooms of its own."""
    _, room, *rest = name.split(".")
    return f"nn.{rest[0]}" if room == "nn" and rest else room


def test_a_file_imports_only_from_floors_below_its_own():
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for file in (ROOT / "jax_attn").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        here = room_of(module)
        if here in ("__init__", "nn.__init__"):  # the doors hand on what stands behind them
            continue
        assert here in floor, f"{file}: this room has no floor"
        for name, line in imports(file):
            there = room_of(name) if name.startswith("jax_attn.") else here
            if there in floor and there != here:
                assert floor[there] < floor[here], f"{file}:{line} imports {name}"


def run_without(blocked: str, package: str, skip: tuple[str, ...] = ()) -> None:
    """Import every module of `package` in a fresh interpreter in which `blocked` cannot be imported."""
    code = f"""
import importlib, pkgutil, sys
sys.modules[{blocked!r}] = None
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package + "."!r}):
    if not module.name.startswith({skip!r}):
        importlib.import_module(module.name)
assert not any(name.split(".")[0] == {blocked!r} and sys.modules[name] for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_jax_attn_imports_without_torch():
    run_without("torch", "jax_attn")


def test_torch_ref_imports_without_jax():
    run_without("jax", "torch_ref")


def test_import_jax_attn_loads_nothing_heavy():
    heavy = ("torch", "rich", "tyro", "matplotlib", "transformers")
    code = f"import jax_attn, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_is_a_package():
    """A folder without `__init__.py` works here, and is missing from what is installed."""
    for tree in ("jax_attn", "torch_ref"):
        for file in (ROOT / tree).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file.parent


DOORS = [
    "jax_attn",
    *(
        f"jax_attn.{room}"
        for room in ("catalogue", "from_scratch", "functional", "models", "nn", "optim", "parity", "weights")
    ),
    "jax_attn.models.generation",
    "jax_attn.training",
    "jax_attn.training.data",
    "jax_attn.visualize",
    *(
        f"{tree}.nn.{room}"
        for tree in ("jax_attn", "torch_ref")
        for room in ("positions", "attention", "layers")
    ),
    *(f"torch_ref.{room}" for room in ("from_scratch", "models", "nn")),
    "torch_ref",
]


@pytest.mark.parametrize("package", DOORS)
def test_a_door_hands_on_exactly_what_it_names(package):
    """Tab completion shows what is public and nothing else, and all of it is there."""
    door = import_module(package)
    assert dir(door) == sorted(door.__all__)
    assert all(hasattr(door, name) for name in door.__all__)


@pytest.mark.parametrize("tree", ["jax_attn", "torch_ref"])
@pytest.mark.parametrize("room", ROOMS)
def test_every_public_class_of_a_room_stands_at_its_door(tree, room):
    door = import_module(f"{tree}.{room}")
    for file in modules(tree, (room,)):
        for name, kind in public_classes(tree, file).items():
            assert getattr(door, name, None) is kind, f"{tree}.{room} does not hand on {name} of {file}"


def test_no_two_classes_of_a_package_have_one_name():
    """A reader who searches for a class finds one."""
    for room in (ROOT / "jax_attn").iterdir():
        found: dict[str, str] = {}
        for file in sorted(room.rglob("*.py")) if room.is_dir() else ():
            for node in parsed(file).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    assert node.name not in found, f"{node.name}: {found[node.name]} and {file}"
                    found[node.name] = str(file)


# What is used without an import: tools, plugins of pytest, and beartype, which jaxtyping is given by name.
TOOLS = {"beartype", "pytest-cov", "pytest-xdist", "ruff", "ty"}


# Packages that are imported under another name.
IMPORTED_AS = {
    "orbax": "orbax-checkpoint", "PIL": "pillow", "griffe": "griffelib", "yaml": "pyyaml",
    "performer_pytorch": "performer-pytorch", "x_transformers": "x-transformers",
}  # fmt: skip


def third_party(*trees: str) -> set[str]:
    """The packages that the files of these trees import, beside Python's own and ours."""
    ours = {"jax_attn", "torch_ref", "parity_tests", "benchmarks", "examples", "docs"}
    ours |= {path.stem for path in (ROOT / "examples").glob("*.py")}
    files = (file for tree in trees for file in (ROOT / tree).rglob("*.py"))
    found = {name.split(".")[0] for file in files for name, _ in imports(file)}
    return {IMPORTED_AS.get(name, name) for name in found if name} - ours - sys.stdlib_module_names


def imported_by_name(package: str) -> bool:
    """Whether jax_attn imports an extra by name, so that the type checker says the same with it and without."""
    files = (ROOT / "jax_attn").rglob("*.py")
    return any(f'import_module("{package}")' in file.read_text(encoding="utf-8") for file in files)


def declared(extra: str | None = None) -> set[str]:
    """The packages of the core, or of an extra and of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    names: set[str] = set()
    for requirement in listed:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        names |= {name} if name != "jax-attn" else set().union(*map(declared, extras.split(",")))
    return names


def test_what_is_imported_is_declared():
    core, optional = declared(), declared("torch") | declared("cli") | declared("gguf") | declared("train")
    pytest_itself = {"pytest"}  # in its plugin, which it loads
    assert third_party("jax_attn") <= core | optional | pytest_itself
    assert third_party("torch_ref") == {"torch"}
    assert third_party("examples") <= core | declared("torch") | declared("train")
    assert third_party("parity_tests", "benchmarks") <= core | declared("dev") | {"_pytest"}


def test_what_is_declared_is_imported():
    assert declared() <= third_party("jax_attn")
    assert declared("torch") | declared("cli") <= third_party("jax_attn")
    assert all(map(imported_by_name, declared("gguf")))
    assert declared("train") <= third_party("examples", "jax_attn")
    everything = third_party("jax_attn", "torch_ref", "examples", "parity_tests", "benchmarks")
    assert declared("dev") - declared("gguf") - TOOLS <= everything


def test_the_site_declares_what_it_imports_and_names():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = {
        "mkdocs-material": "name: material",
        "mkdocstrings": "- mkdocstrings:",
        "mkdocs-jupyter": "- mkdocs-jupyter:",
    }
    assert all(line in settings for line in named.values())
    own = declared("docs") - declared("torch") - declared("cli")
    assert own == (third_party("docs") - declared()) | named.keys()


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jax_attn.__version__"}
