"""The page in a real browser: its elements are there, pointing and keys change them, nothing is fetched."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jax_attn.visualize import (
    AttentionLayer,
    AttentionPage,
    AttentionRecord,
    AttentionStack,
    TokenAxis,
    head_view,
    heatmaps,
    model_view,
    neuron_view,
)
from jax_attn.visualize.page import ROOM
from parity_tests.docs.test_site import CHECKS
from parity_tests.visualize.browser import browser

LAYERS, HEADS, TOKENS, WIDTH = 2, 3, 7, 5
LABELS = ("[CLS]", "안녕", "😀", "[SEP]", "שלום", "</script><b>", "[SEP]")

STEP = 1 / 255  # of a byte that says a weight, in a row whose largest is 1
SHOWN, SHOWN_SCORE = 0.0005, 0.005  # half of the last digit that is written


def softmax(scores):
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def record():
    """A pair of sentences, in both frameworks, which are not the same in head 1 of layer 1."""
    rng = np.random.default_rng(0)
    axis = TokenAxis(
        LABELS,
        tuple(f"id {n}" for n in range(TOKENS)),
        (0, 0, 0, 0, 1, 1, 1),
        (True, False, False, True, False, False, True),
    )
    layers = []
    for number in range(LAYERS):
        query, key = rng.standard_normal((2, HEADS, TOKENS, WIDTH)).astype(np.float32)
        weights = softmax(query @ key.mT)
        other = weights.copy()
        other[1, 2] = softmax(rng.standard_normal(TOKENS)) if number == 1 else other[1, 2]
        layers.append(AttentionLayer(number, f"layers.{number}", weights, query, key, other))
    return AttentionRecord(
        (AttentionStack("encoder", axis, axis, tuple(layers)),), "a <model> & more", other="torch"
    )


@pytest.fixture(scope="module")
def tab():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def path(record, tmp_path_factory):
    return head_view(record).save(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def page(tab, path):
    tab.open(path)
    yield tab
    assert tab.errors == []
    assert tab.requests == []


def opened(page, view):
    page.point(f"#tab-{view}", click=True)
    page.wait(f"document.getElementById('panel').dataset.done === '{view}'")


def readout(page):
    return page.ask("document.getElementById('readout').textContent")


def picture(page, selector="#panel canvas"):
    return page.ask(f"document.querySelector({json.dumps(selector)}).toDataURL()")


QUERY, KEY = "ul[data-side=query]", "ul[data-side=key]"


def test_heads_pointing_and_choosing(page, record):
    weights = record.stacks[0].layers[0].weights
    assert page.ask(f"[...document.querySelectorAll('{QUERY} li')].map(e => e.textContent)") == list(LABELS)
    assert page.ask("document.querySelectorAll('#heads [aria-pressed=true]').length") == HEADS
    before = picture(page)
    page.point(f"{QUERY} li:nth-child(3)")
    best = weights[:, 2].mean(0)
    place = int(best.argmax())
    name, weight = re.match(r"“😀” looks at “(.*?)” (\S+),", readout(page)).groups()
    assert name == LABELS[place]
    assert float(weight) == pytest.approx(best[place], abs=STEP / 2)
    assert picture(page) != before
    shades = (
        f"[...document.querySelectorAll('{KEY} li')].map(e => Number(e.style.getPropertyValue('--w')) ** 2)"
    )
    np.testing.assert_allclose(page.ask(shades), best, atol=STEP / 2)
    page.point("#heads [data-head='2']", click=True)
    page.point(f"{QUERY} li:nth-child(3)", click=True)
    page.point("h1")  # it stays chosen
    two = weights[:2, 2].mean(0)
    np.testing.assert_allclose(page.ask(shades), two, atol=STEP / 2)
    assert page.ask(f"document.querySelectorAll('{QUERY} [aria-selected=true]').length") == 1
    page.point(f"{KEY} li:nth-child(2)")
    assert "“안녕” is looked at by" in readout(page)


def test_heads_by_keys(page):
    page.ask(f"document.querySelector('{QUERY} li').focus()")
    page.press("ArrowDown")
    assert page.ask("document.activeElement.textContent") == LABELS[1]
    assert readout(page).startswith("“안녕” looks at")
    page.press("Enter")
    page.press("ArrowRight")
    page.wait(
        "document.getElementById('layer').value === '1' && document.getElementById('panel').dataset.done"
    )
    assert page.ask("document.activeElement.textContent") == LABELS[1]
    assert page.ask(f"document.querySelector('{QUERY} [aria-selected=true]').textContent") == LABELS[1]
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Escape")
    assert page.ask(f"document.querySelector('{QUERY} [aria-selected=true]')") is None
    page.ask("document.querySelector('#tab-head').focus()")
    page.press("ArrowRight")
    page.wait("document.getElementById('panel').dataset.done === 'model'")
    assert page.ask("document.activeElement.id") == "tab-model"


def chosen(page, control, value):
    select = f"document.getElementById('{control}')"
    page.ask(f"{select}.value = '{value}'; {select}.dispatchEvent(new Event('change'))")
    page.wait("document.getElementById('panel').dataset.done")


def test_quadrants_and_special_tokens(page):
    listed = "[...document.querySelectorAll('ul')].map(u => [...u.children].map(e => e.textContent))"
    chosen(page, "quadrant", "01")
    assert page.ask(listed) == [list(LABELS[:4]), list(LABELS[4:])]
    page.point("#special", click=True)
    page.wait("document.getElementById('panel').dataset.done")
    assert page.ask(listed) == [["안녕", "😀"], ["שלום", "</script><b>"]]
    assert page.ask(f"getComputedStyle(document.querySelector('{KEY} li')).direction") == "rtl"


def test_the_model_opens_a_head(page):
    opened(page, "model")
    assert page.ask("document.querySelectorAll('.thumbs button').length") == LAYERS * HEADS
    thumbs = page.ask("[...document.querySelectorAll('.thumbs canvas')].map(c => c.toDataURL())")
    assert len(set(thumbs)) == LAYERS * HEADS
    page.point(".thumbs [aria-label='layer 1, head 2']", click=True)
    page.wait("document.getElementById('panel').dataset.done === 'head'")
    assert page.ask("document.getElementById('layer').value") == "1"
    assert page.ask(
        "[...document.querySelectorAll('#heads [aria-pressed=true]')].map(e => e.dataset.head)"
    ) == ["2"]


def test_heatmaps_of_both_frameworks_and_their_difference(page, record):
    opened(page, "heatmap")
    chosen(page, "layer", 1)
    page.point("#heads [data-head='1']", click=True)
    page.wait("document.getElementById('panel').dataset.done")
    layer = record.stacks[0].layers[1]
    assert page.ask("document.querySelectorAll('.maps canvas').length") == 3
    captions = page.ask("[...document.querySelectorAll('figcaption')].map(e => e.textContent)")[1:]
    assert captions[2].startswith(f"difference, up to {np.abs(layer.weights - layer.other).max():.3f}")
    before = picture(page, "[data-map=difference]")
    page.ask("document.querySelector('[data-map=weights]').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.press(key)
    ours, theirs = layer.weights[1, 2, 1], layer.other[1, 2, 1]
    found = re.fullmatch(r"“😀” to “안녕”: Flax (\S+), torch (\S+), difference (\S+)", readout(page))
    np.testing.assert_allclose(
        [float(each) for each in found.groups()], [ours, theirs, ours - theirs], atol=STEP / 2 + SHOWN
    )
    assert picture(page, "[data-map=difference]") != before


def test_neurons_add_up_to_the_score(page, record):
    opened(page, "neuron")
    chosen(page, "query", 4)
    layer = record.stacks[0].layers[0]
    rows = "[...document.querySelectorAll('.neurons tbody tr')].slice(1)"
    cells = page.ask(f"{rows}.map(row => row.cells[3].textContent)")
    query, keys = layer.query[0, 4], layer.key[0]
    step, steps = (
        np.abs(query).max() / 127,
        np.abs(keys).max(-1) / 127,
    )  # signed numbers have half as many steps
    within = (
        (steps * np.abs(query).sum() + step * np.abs(keys).sum(-1)) / 2
        + WIDTH * step * steps / 4
        + SHOWN_SCORE
    )
    assert np.all(np.abs(np.array(cells, float) - keys @ query) <= np.minimum(within, 0.06))
    page.point(".neurons tbody tr:nth-child(3) td:nth-child(3) canvas")
    assert readout(page).startswith(f"dimension {WIDTH // 2}: query {layer.query[0, 4, 2]:.2f}"[:-1])
    page.ask("document.querySelector('.neurons [tabindex=\"0\"]').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.press(key)
    found = re.fullmatch(rf"dimension 2: query (\S+) × key “{LABELS[1]}” (\S+) = \S+", readout(page))
    np.testing.assert_allclose(float(found[1]), query[2], atol=step / 2 + SHOWN)
    np.testing.assert_allclose(float(found[2]), keys[1, 2], atol=steps[1] / 2 + SHOWN)


def test_a_narrow_page_in_the_dark(tab, path):
    tab.open(path, width=400, dark=True)
    for view in ("head", "model", "neuron", "heatmap"):
        opened(tab, view)
        assert tab.ask(CHECKS) == [], view
    back = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(20, 22, 27)"
    assert tab.errors == tab.requests == []


def test_an_image_shows_where_a_patch_looks(tab, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    axis = TokenAxis(("[CLS]", *map(str, range(9))), special=(True,) + (False,) * 9, grid=(3, 3))
    weights = softmax(3 * np.random.default_rng(1).standard_normal((1, 10, 10)))
    stack = AttentionStack("encoder", axis, axis, (AttentionLayer(0, "", weights),))
    tab.open(head_view(AttentionRecord((stack,), image=image)).save(tmp_path / "image.html"))
    before = picture(tab, "#image canvas")
    tab.point("#image canvas", click=True)  # its middle
    assert tab.ask(f"document.querySelector('{QUERY} [aria-selected=true]').textContent") == "4"
    assert picture(tab, "#image canvas") != before
    assert tab.errors == tab.requests == []


@pytest.mark.parametrize("share", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_512_tokens_of_12_layers_of_12_heads_open_in_3_seconds_and_10_mb(tab, tmp_path, monkeypatch, share):
    """Noise, which nothing compresses; by default one layer, in its share of the room."""
    monkeypatch.setattr("jax_attn.visualize.page.ROOM", ROOM // share)
    one = softmax(np.random.default_rng(0).standard_normal((1, 512, 512)))
    layers = tuple(
        AttentionLayer(n, "", np.roll(np.repeat(one, 12, 0), n, axis=-1)) for n in range(12 // share)
    )
    axis = TokenAxis(tuple(f"token {n}" for n in range(512)))
    record = AttentionRecord((AttentionStack("encoder", axis, axis, layers),))
    path = head_view(record).save(tmp_path / "large.html")
    assert 5e6 < path.stat().st_size * share < 10e6 + 1e5 * share  # the program is there once
    tab.send("Performance.enable", timeDomain="threadTicks")  # processor time, whoever else is at work
    before = seconds(tab)
    tab.open(path)
    assert 0 < seconds(tab) - before < 3
    assert tab.ask(f"document.querySelectorAll('{QUERY} li').length") == 512
    assert tab.errors == tab.requests == []


def seconds(tab):
    return next(
        each["value"]
        for each in tab.send("Performance.getMetrics")["metrics"]
        if each["name"] == "ThreadTime"
    )


class Text(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.frames = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "iframe":
            self.frames.append(dict(attrs)["srcdoc"])

    def handle_data(self, data):
        self.found.append(data)


@pytest.mark.parametrize(
    ("view", "make"),
    [("head", head_view), ("model", model_view), ("neuron", neuron_view), ("heatmap", heatmaps)],
)
def test_a_notebook_gets_the_page_in_a_frame(record, view, make):
    shown = make(record)
    (frame,) = Text(shown._repr_html_()).frames
    assert frame == shown.html
    assert "array" not in repr(shown)  # a notebook's file keeps that beside the frame
    said = json.loads(re.search(r'id="record">(.*?)</script>', frame, re.DOTALL)[1])
    assert said["view"] == view
    assert said["stacks"][0]["queries"]["labels"] == list(LABELS)
    text = " ".join(Text(frame).found)
    assert "a <model> & more" in text
    assert "Attention is not explanation" in text


def test_bad_pages_are_refused(record, monkeypatch):
    with pytest.raises(ValueError, match="record must be an AttentionRecord, got int"):
        head_view(3)
    with pytest.raises(ValueError, match="heads must be from 0 to 2, got 9"):
        neuron_view(record, head=9)
    many = AttentionRecord.from_weights(softmax(np.random.default_rng(0).standard_normal((3, 2, 60, 60))))
    monkeypatch.setattr("jax_attn.visualize.page.ROOM", 4000)
    with pytest.raises(ValueError, match="too much for one page: 3 layers of 2 heads, 60 x 60 tokens"):
        AttentionPage(many)._repr_html_()


def test_heatmaps_are_png_files_too(record, tmp_path):
    paths = heatmaps(record.select(heads=[1])).save_png(tmp_path / "maps")
    assert [path.name for path in paths] == ["encoder-00.png", "encoder-01.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
