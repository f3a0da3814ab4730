"""Set up before anything is imported: CPU, no network, and the annotated shapes checked at run time."""

import gc
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
for library in ("OMP", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # the tests run side by side

# Most of the time goes into compiling what runs once: it need not be good code. (A process that is given a
# flag which its XLA does not have ends at once, so one is sent ahead; xdist's workers inherit what it found.)
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if "XLA_FLAGS" not in os.environ:
    ahead = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(ahead, env={**os.environ, "XLA_FLAGS": QUICK}, capture_output=True)
    os.environ["XLA_FLAGS"] = QUICK if known.returncode == 0 else ""
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import jaxtyping  # noqa: E402

jaxtyped = jaxtyping.jaxtyped


def _outside_of_functions(**options):
    """`jaxtyped` for what stands in a module or a class: a function inside of another is made anew at each call."""
    check = jaxtyped(**options)
    return lambda made: made if "<locals>" in getattr(made, "__qualname__", "") else check(made)


# What computes with arrays: elsewhere there is little to check.
jaxtyping.jaxtyped = _outside_of_functions
COMPUTING = ("from_scratch", "functional", "models", "nn")
jaxtyping.install_import_hook([f"jax_attn.{room}" for room in COMPUTING], "beartype.beartype")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from parity_tests.eager import spare_programs  # noqa: E402

spare_programs()

# Every new shape is compiled anew: no deadline, and few examples. The same ones on every machine of CI.
settings.register_profile("here", deadline=None, max_examples=10)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items):
    """Short files last: a worker that gets a long one at the end leaves the other with nothing to do."""
    items.sort(key=lambda item: "from_scratch" in item.path.parts)


gc.disable()  # what is imported stays


def pytest_collection_finish():
    """Programs are no garbage: collecting what was imported, and them, anew took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000, 20, 20)


def pytest_generate_tests(metafunc):
    """Each row of a contract is a test of its own."""
    if "lanes" in metafunc.fixturenames and hasattr(metafunc.cls, "rows"):
        metafunc.parametrize(("row", "lanes", "new"), [*metafunc.cls.lane_tests()])
    elif "row" in metafunc.fixturenames and hasattr(metafunc.cls, "rows"):
        metafunc.parametrize("row", [*metafunc.cls.row_tests()])
    if "row_in_linen" in metafunc.fixturenames:
        metafunc.parametrize("row_in_linen", [*metafunc.cls.rows_in_linen()])
    if "row_of_each_class" in metafunc.fixturenames:
        metafunc.parametrize("row_of_each_class", metafunc.cls.row_of_each_class())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Torch draws the same in a test whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _shapes_checked_where_modules_are_shown(request):
    """Annotated shapes are checked of the rows of the catalogue and in functional/, for each check takes its time.

    Nor where input is bad: a test of that wants to see our own errors, and has "bad" or "refused" in its name.
    """
    shown = hasattr(request.cls, "rows") or "functional" in request.path.relative_to(ROOT).parts
    disabled = not shown or any(word in request.node.name.split("[")[0] for word in ("bad", "refused"))
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", disabled)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
