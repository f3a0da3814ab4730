"""The pages of the API have the names of the doors, and the build sees a name that nothing describes."""

import re
from importlib import import_module

import pytest

from docs.hooks import api
from parity_tests.test_house import DOORS


@pytest.mark.parametrize("door", api.DOORS)
def test_a_page_has_the_names_of_its_door(door):
    module = import_module(door)
    described = re.findall(rf"^::: {re.escape(door)}\.(?:\w+\.)?(\w+)$", api.page(door), re.MULTILINE)
    linked = re.findall(r"^- \[`(\w+)`\]", api.page(door), re.MULTILINE)
    assert sorted(described + linked) == sorted(module.__all__) == dir(module)


def test_every_door_has_a_page():
    rooms = {f"{tree}.nn.{room}" for tree in ("jax_attn", "torch_ref") for room in api.SECTIONS}
    assert set(DOORS) - rooms == set(api.DOORS)


def test_what_is_handed_on_twice_is_described_once():
    links = re.findall(r"\]\[([\w.]+)\]", api.page("jax_attn"))
    assert "jax_attn.functional.flex_attention" in links
    for link in links:
        door, name = link.rsplit(".", 1)
        assert f"::: {link}\n" in api.page(door), name


def test_a_function_that_hides_its_file_is_described_and_not_the_file():
    assert "::: jax_attn.parity.compare.compare\n" in api.page("jax_attn.parity")


def test_a_name_without_a_docstring_is_found(tmp_path, monkeypatch):
    pytest.importorskip("griffe", reason="it comes with the extra [docs]")
    (tmp_path / "half_described.py").write_text(
        '__all__ = ["TOLD", "UNTOLD", "told", "untold"]\n'
        'TOLD = 1\n"""A number."""\nUNTOLD = 2\n'
        'def told():\n    """Nothing."""\n'
        "def untold():\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = api.undocumented(["half_described"])
    assert found == ["half_described.UNTOLD", "half_described.untold"]


def test_blocks_of_a_docstring_stay_blocks():
    pytest.importorskip("griffe", reason="it comes with the extra [docs]")
    from docs.hooks.docstrings import as_markdown

    text = "As in::\n\n    code\n\n====  ====\na     b\n====  ====\n1     2\n====  ====\n\nAfter."
    table = "====  ====\na     b\n====  ====\n1     2\n====  ===="
    assert as_markdown(text) == f"As in:\n\n    code\n\n```text\n{table}\n```\n\nAfter."


def test_shapes_keep_their_quotes(tmp_path, monkeypatch):
    griffe = pytest.importorskip("griffe", reason="it comes with the extra [docs]")
    from docs.hooks.docstrings import Readable

    (tmp_path / "shaped.py").write_text(
        "from jaxtyping import Array, Float, Int\n"
        'def shaped(x: Float[Array, "*B T H"], y: tuple[Int[Array, "B"], ...] | None) -> Float[Array, "..."]: ...\n'
    )
    function = griffe.load("shaped", search_paths=[tmp_path], extensions=griffe.load_extensions(Readable))[
        "shaped"
    ]
    shown = [str(parameter.annotation) for parameter in function.parameters] + [str(function.returns)]
    assert shown == [
        'Float[Array, "*B T H"]',
        'tuple[Int[Array, "B"], ...] | None',
        'Float[Array, "..."]',
    ]
