"""Set up before anything is imported: CPU, no network, and the annotated shapes checked at run time."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import jaxtyping

jaxtyping.install_import_hook("jax_attn", "beartype.beartype")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Every new shape is compiled anew: no deadline, and few examples. The same ones on every machine of CI.
settings.register_profile("here", deadline=None, max_examples=10)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config):
    config.addinivalue_line("markers", "unchecked_shapes: annotated shapes are not checked in this test")


def pytest_generate_tests(metafunc):
    """Each row of a contract is a test of its own."""
    rows = getattr(metafunc.cls, "rows", None)
    if rows is not None and "row" in metafunc.fixturenames:
        metafunc.parametrize("row", rows)


@pytest.fixture(autouse=True)
def _shapes_unchecked_where_input_is_bad(request):
    """A test of bad input wants to see our own errors: it has the mark, or "bad" or "refused" in its name."""
    marked = request.node.get_closest_marker("unchecked_shapes") is not None
    disabled = marked or any(word in request.node.name.split("[")[0] for word in ("bad", "refused"))
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", disabled)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
