"""`jax-attn train`: the programs of examples/, in a clone and in an installed package."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

EXAMPLES = {
    "classifier": "train_classifier",
    "masked-lm": "train_masked_lm",
    "lm": "train_language_model",
    "translator": "train_translator",
}
PACKAGE = Path(__file__).parents[1]

USAGE = """usage: jax-attn train {classifier,masked-lm,lm,translator} ...

Train a model on real text, or on your own: the programs of examples/.

    jax-attn train classifier     tell classes of texts apart
    jax-attn train masked-lm      pre-train an encoder for it on plain text
    jax-attn train lm             a language model, on characters or byte pairs
    jax-attn train translator     the encoder-decoder of 2017

`jax-attn train NAME --help` shows what each takes, what to expect and how long it takes."""


def train(arguments: Sequence[str]) -> int:
    """Train a classifier, an encoder, a language model or a translator: the programs of examples/."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name not in EXAMPLES:
        raise ValueError(f"train must be followed by one of {', '.join(EXAMPLES)}, got {name!r}")
    return load_example(EXAMPLES[name]).main(rest, f"jax-attn train {name}")


def load_example(name: str) -> ModuleType:
    """The program as a module."""
    if name in sys.modules:
        return sys.modules[name]
    path = examples_folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def examples_folder() -> Path:
    """Where the programs lie: inside of the package in a wheel, beside it in a clone.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    for folder in (PACKAGE / "examples", PACKAGE.parent / "examples"):
        if (folder / "train_classifier.py").is_file():
            return folder
    raise FileNotFoundError(f"the folder examples/ is neither inside of {PACKAGE} nor beside it")
