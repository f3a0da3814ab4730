"""The real thing: a pretrained encoder reads real sentences, in Flax and in torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.functional.sentence import cosine_similarity, mean_pooling
from jax_attn.models.bert import Bert
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.lanes import LANES
from jax_attn.parity.report import Report
from jax_attn.weights.config import read_config
from jax_attn.weights.families import family_of
from jax_attn.weights.families.bert import MODEL_TYPE, NAMES
from jax_attn.weights.pretrained import BuildOptions, from_pretrained, part_of
from jax_attn.weights.sample import minilm_folder
from jax_attn.weights.state_dict import state_dict
from jax_attn.weights.tokenizer import tokenize

SENTENCES = (
    "That is a happy person",
    "That is a very happy individual",
    "Today is a sunny day",
    "The committee postponed its decision until the next quarterly meeting.",
    "저 사람은 행복합니다",
    "오늘은 날씨가 맑습니다",
)


@dataclass(frozen=True)
class Similarity:
    """The cosine of two sentences' vectors, as Flax and as torch find it in float32."""

    first: str
    second: str
    flax: float
    torch: float


@dataclass(frozen=True)
class Proof:
    """What was found of a checkpoint: the comparison in every lane, and the similarities it gives.

    Attributes:
        report: the encoder beside its twin, in every lane.
        transformers: beside transformers' `BertModel`, in one lane; None where that is not installed or has no such
            model.
        sentences: how many were read.
        tokens: the most tokens of one.
        similarities: of each sentence with each.
    """

    report: Report
    transformers: Report | None
    sentences: int
    tokens: int
    similarities: tuple[Similarity, ...]

    @property
    def passed(self) -> bool:
        """Whether the comparisons passed."""
        return self.report.passed and (self.transformers is None or self.transformers.passed)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        similarities = [asdict(pair) for pair in self.similarities]
        return {
            **self.report.to_json(),
            "passed": self.passed,
            "transformers": None if self.transformers is None else self.transformers.to_json(),
            "sentences": self.sentences,
            "tokens": self.tokens,
            "similarities": similarities,
        }


def prove_checkpoint(
    folder: Path | None = None,
    sentences: Sequence[str] = SENTENCES,
    lanes: Sequence[str] = LANES,
    announce: Callable[[str], None] = lambda line: None,
    ignore: Sequence[str] = (),
) -> Proof:
    """Load the checkpoint into both frameworks and compare them on the sentences, gradients included.

    Args:
        folder: a BERT checkpoint with its `tokenizer.json`; None is the sample encoder, all-MiniLM-L6-v2.
        sentences: what to read; each is compared with each.
        lanes: the lanes to compare in.
        announce: called with a line before each longer piece of work.
        ignore: as in `from_pretrained`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is not a BERT encoder's, or a sentence does not fit it.
    """
    name = "all-MiniLM-L6-v2" if folder is None else Path(folder).resolve().name
    folder = minilm_folder() if folder is None else Path(folder)
    ids, mask = tokenize(folder, sentences)
    encoder = from_pretrained(folder, param_dtype=jnp.float32, ignore=ignore)
    if not isinstance(encoder, Bert):
        raise ValueError(f"{folder} holds a {type(encoder).__name__}, expected a Bert encoder")
    twin = torch_twin(encoder, ignore)
    theirs = transformers_twin(encoder, folder)
    case = Case("sentences", (ids, mask))
    report = compare_cases(
        encoder,
        twin,
        [case],
        lanes=lanes,
        weights="flax",
        whole_model=True,
        title=name,
        progress=lambda lane, _: announce(f"{name}, {lane}: outputs and the gradients of all weights"),
    )
    beside = None
    if theirs is not None:
        beside = compare_cases(
            encoder,
            theirs,
            [case],
            lanes=["float64" if "float64" in lanes else lanes[0]],
            weights="flax",
            names=NAMES,
            whole_model=True,
            title=f"{name} beside transformers",
            progress=lambda lane, _: announce(f"{name} beside transformers, {lane}"),
        )
    found = similarities(encoder, twin, sentences, ids, mask)
    return Proof(report, beside, len(sentences), ids.shape[1], found)


def torch_twin(encoder: Any, ignore: Sequence[str] = ()) -> Any:
    """`torch_ref`'s twin with the encoder's architecture and weights, in evaluation mode."""
    config: Any = encoder.config
    part = part_of(family_of(config), config["architectures"][0], config, BuildOptions(ignore=ignore))
    twin = part.build("torch_ref")
    twin.load_state_dict(state_dict(encoder))
    return twin.eval()


def transformers_twin(encoder: Bert, folder: Path) -> Any:
    """transformers' `BertModel` of the folder's `config.json`, in evaluation mode; None where there is none."""
    if find_spec("transformers") is None or read_config(folder)["model_type"] != MODEL_TYPE:
        return None
    transformers = import_module("transformers")
    config = transformers.BertConfig.from_pretrained(folder)
    return transformers.BertModel(config, add_pooling_layer=encoder.pooler is not None).eval()


def similarities(
    encoder: Bert, twin: Any, sentences: Sequence[str], ids: np.ndarray, mask: np.ndarray
) -> tuple[Similarity, ...]:
    """The similarity of each sentence with each, by the mean of its tokens' vectors."""
    import torch

    hidden = nnx.jit(lambda model: model(jnp.asarray(ids), jnp.asarray(mask)).last_hidden_state)(encoder)
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    flax, torch_ = (_cosines(jnp.asarray(array), mask) for array in (hidden, theirs))
    pairs = combinations(range(len(sentences)), 2)
    return tuple(
        Similarity(sentences[i], sentences[j], float(flax[i, j]), float(torch_[i, j])) for i, j in pairs
    )


def _cosines(hidden: jax.Array, mask: np.ndarray) -> np.ndarray:
    vectors = mean_pooling(hidden, jnp.asarray(mask))
    return np.asarray(cosine_similarity(vectors, vectors))
