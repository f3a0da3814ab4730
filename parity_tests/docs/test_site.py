"""The site, built strictly and read in a browser: every page, wide and narrow, in light and in dark."""

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from parity_tests.visualize.browser import browser

ROOT = Path(__file__).parents[2]
CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")
READY = "document.readyState === 'complete' && !!window.document$"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra [docs] is not installed"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def tab():
    with browser() as found:
        yield found


def test_what_cannot_be_read_is_found(tab, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<h1>One</h1><h1>Two</h1><h3>Three</h3><img src='data:,'><button></button><p id=a></p><p id=a></p>"
        "<p style='color: #999; width: 2000px'>pale and wide</p>"
    )
    tab.open(tmp_path / "bad.html", width=400, ready="true")
    found = "; ".join(tab.ask(CHECKS))
    told = (
        "2 h1",
        "goes from 1 to 3",
        "no language",
        "no title",
        "no text: img",
        "no name: button",
        "two of id a",
    )
    for complaint in (*told, "wide in 400", "contrast 2.8"):
        assert complaint in found


def every_page(site):
    return sorted(str(file.parent.relative_to(site)) for file in site.rglob("index.html"))


def test_every_page_says_who_it_is_for(site, tab, address):
    first = "document.querySelector('article p, .jupyter-wrapper p').textContent.trim()"
    for page in every_page(site):
        tab.open(f"{address}{page}/".replace("/./", "/"), ready=READY)
        assert tab.ask(first).startswith("For "), page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_every_page_can_be_read(site, tab, address, width, dark):
    """Headings in order, names, contrast, no scrolling sideways; no error, and nothing fetched elsewhere."""
    found = {}
    for page in every_page(site):
        tab.open(f"{address}{page}/".replace("/./", "/"), width=width, dark=dark, ready=READY)
        complaints = tab.ask(CHECKS)
        complaints += [request for request in tab.requests if not request.startswith((address, "data:"))]
        complaints += tab.errors
        found |= {page: complaints} if complaints else {}
    assert not found
