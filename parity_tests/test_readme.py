"""Every block of Python in the README runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def files_of_the_readme(tmp_path, monkeypatch):
    """What the blocks read: a folder with a BERT, and modules of the reader's own."""
    from flax import nnx
    from torch import nn

    from jax_attn.models import Bert
    from jax_attn.weights import save_pretrained

    monkeypatch.chdir(tmp_path)
    save_pretrained(Bert(31, 12, 1, 3, 17, max_position_embeddings=5, rngs=nnx.Rngs(0)), Path("path/to/bert"))
    return {"module": nnx.Linear(3, 5, rngs=nnx.Rngs(0)), "torch_module": nn.Linear(3, 5)}


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:40] for block in BLOCKS])
def test_a_block_runs(block, files_of_the_readme):
    exec(compile(block, "README.md", "exec"), {"__name__": "readme", **files_of_the_readme})


def test_the_port_of_the_readme_is_a_port(tmp_path, capsys):
    """It is what `jax-attn diff` takes, and has the mistake that the text speaks of."""
    from jax_attn.cli.main import main

    (block,) = [block for block in BLOCKS if block.startswith("# port.py")]
    (tmp_path / "port.py").write_text(block)
    assert main(["diff", str(tmp_path / "port.py")]) == 1
    assert "eps: flax 1e-06, torch 1e-05" in capsys.readouterr().out
