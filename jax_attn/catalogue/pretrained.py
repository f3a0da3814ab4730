"""The real thing: a pretrained model reads real text, sees an image or hears, in Flax and in torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.catalogue.agreement import Agreement, agreement
from jax_attn.catalogue.inputs import Inputs, inputs_of
from jax_attn.functional.sentence import cosine_similarity, mean_pooling
from jax_attn.models.text_encoder import EncoderOutput
from jax_attn.nn.primitives import Buffer
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.lanes import LANES
from jax_attn.parity.report import Report
from jax_attn.weights.families import names_of_checkpoint
from jax_attn.weights.pretrained import from_pretrained
from jax_attn.weights.rules import slots
from jax_attn.weights.sample import minilm_folder
from jax_attn.weights.twin import torch_twin

TWIN, TRANSFORMERS = "twin", "transformers"
Against = Literal["twin", "transformers"]

# What a model of transformers returns, in the order of ours; with scores, nothing else counts.
SCORES = ("logits", "start_logits", "end_logits")
VECTORS = ("last_hidden_state", "pooler_output")


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
        architecture: the class, as `config.json` names it.
        report: the model beside its twin, in every lane; beside transformers where only that was asked for.
        transformers: beside transformers' model of the same folder, in one lane; None where that was not asked for,
            is not installed or has no such model.
        read: what the models were given, in a few words.
        agreement: of the predictions in float32; None of a model that makes none.
        similarities: of each sentence with each; none of another model than an encoder of sentences.
    """

    architecture: str
    report: Report
    transformers: Report | None
    read: str
    agreement: Agreement | None
    similarities: tuple[Similarity, ...]

    @property
    def passed(self) -> bool:
        """Whether the comparisons passed."""
        return self.report.passed and (self.transformers is None or self.transformers.passed)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        return {
            **self.report.to_json(),
            "passed": self.passed,
            "architecture": self.architecture,
            "transformers": None if self.transformers is None else self.transformers.to_json(),
            "read": self.read,
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "similarities": [asdict(pair) for pair in self.similarities],
        }


def prove_checkpoint(
    folder: Path | None = None,
    sentences: Sequence[str] | None = None,
    lanes: Sequence[str] = LANES,
    announce: Callable[[str], None] = lambda line: None,
    ignore: Sequence[str] = (),
    against: Sequence[Against] = (),
) -> Proof:
    """Load the checkpoint into both frameworks and compare them, gradients included.

    Args:
        folder: a checkpoint of any family; None is the sample encoder, all-MiniLM-L6-v2.
        sentences: what a model of texts is to read; None is a few of ours where it has a `tokenizer.json`.
        lanes: the lanes to compare in.
        announce: called with a line before each longer piece of work.
        ignore: as in `from_pretrained`.
        against: "twin", the torch module of the same parts, in all lanes; "transformers", its own model of the
            folder, in one lane, or in all of them where it is the only one. None of them is both, where
            transformers is installed.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is of no family that is known, a sentence does not fit it, or it is to be compared with
            transformers, which has no such model.
        ModuleNotFoundError: transformers is asked for and not installed.
    """
    name = "all-MiniLM-L6-v2" if folder is None else Path(folder).resolve().name
    folder = minilm_folder() if folder is None else Path(folder)
    model = from_pretrained(folder, param_dtype=jnp.float32, ignore=ignore)
    inputs = inputs_of(model, folder, model.config, sentences)
    theirs = None if tuple(against) == (TWIN,) else transformers_twin(model, folder, TRANSFORMERS in against)
    first = [TWIN] if not against or TWIN in against else []
    reports, twin = [], None
    if first:
        twin = torch_twin(model)
        reports.append(
            compare_cases(
                model,
                twin,
                [inputs.case],
                lanes=lanes,
                weights="flax",
                whole_model=True,
                title=name,
                progress=lambda lane, _: announce(
                    f"{name}, {lane}: outputs and the gradients of all weights"
                ),
            )
        )
    if theirs is not None:
        chosen = ["float64" if "float64" in lanes else lanes[0]] if first else lanes
        reports.append(beside_transformers(model, theirs, inputs, chosen, name, announce))
    return Proof(
        model.config["architectures"][0],
        reports[0],
        reports[1] if len(reports) > 1 else None,
        inputs.said,
        *found_of(model, Called(twin) if theirs is None else Called(theirs, inputs.names), inputs),
    )


def transformers_twin(model: Any, folder: Path, asked: bool = False) -> Any:
    """transformers' own model of the folder, in evaluation mode; None where there is none.

    Raises:
        ValueError, ModuleNotFoundError: there is none, and it is `asked` for.
    """
    if find_spec("transformers") is None:
        if asked:
            raise ModuleNotFoundError("there is no transformers to compare with: pip install transformers")
        return None
    transformers = import_module("transformers")
    config, architecture = model.config, model.config["architectures"][0]
    kind = getattr(transformers, architecture, None)
    if kind is None or config["model_type"] not in transformers.CONFIG_MAPPING:
        if asked:
            raise ValueError(f"transformers has no {architecture} of model_type {config['model_type']!r}")
        return None
    taken = signature(kind.__init__).parameters
    own = {name: config[name] for name in ("add_pooling_layer",) if name in config and name in taken}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    float32 = import_module("torch").float32
    return kind.from_pretrained(folder, dtype=float32, attn_implementation="eager", **own).eval()


@dataclass(frozen=True)
class Called:
    """A torch model, and what to call it with: by position, or with the arguments' names as transformers has it."""

    model: Any
    names: Sequence[str] = ()

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """What it returns, as a tuple in the order of ours."""
        if not self.names:
            return leaves(self.model(*arrays))
        return theirs_of(self.model(**dict(zip(self.names, arrays, strict=True))))


def leaves(output: Any) -> tuple[Any, ...]:
    """The arrays that a model of ours returns."""
    return tuple(each for each in (output if isinstance(output, tuple) else (output,)) if each is not None)


def theirs_of(output: Any) -> tuple[Any, ...]:
    """Those that one of transformers does."""
    scores = tuple(output[name] for name in SCORES if output.get(name) is not None)
    return scores or tuple(output[name] for name in VECTORS if output.get(name) is not None)


def beside_transformers(
    model: Any,
    theirs: Any,
    inputs: Inputs,
    lanes: Sequence[str],
    name: str,
    announce: Callable[[str], None],
) -> Report:
    """Compare with transformers' model, which loaded the same folder by itself."""
    mask = inputs.mask

    def without_padding(outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Padding gives nothing that anyone reads."""
        if mask is None:
            return outputs
        return tuple(
            each * like(each, mask.reshape(*mask.shape, *[1] * (each.ndim - 2)))
            if each.ndim >= 2 and tuple(each.shape[:2]) == mask.shape
            else each
            for each in outputs
        )

    names = names_of_checkpoint(model)
    parameters = dict(theirs.named_parameters())
    for slot in slots(model, names):
        for place in slot.places:  # transformers forgets in loading that a table of sines is not trained
            if isinstance(slot.variable, Buffer) and place.key in parameters:
                parameters[place.key].requires_grad_(False)
    return compare_cases(
        model,
        theirs,
        [inputs.case],
        lanes=lanes,
        weights=None,
        names=names,
        whole_model=True,
        call_flax=lambda module, *arrays: without_padding(leaves(module(*arrays))),
        call_torch=lambda module, *arrays: without_padding(Called(module, inputs.names)(*arrays)),
        title=f"{name} beside transformers",
        progress=lambda lane, _: announce(f"{name} beside transformers, {lane}"),
    )


def like(tensor: Any, array: np.ndarray) -> Any:
    """The array in the framework and the dtype of the tensor."""
    if isinstance(tensor, jax.Array):
        return jnp.asarray(array, tensor.dtype)
    return import_module("torch").from_numpy(array).to(tensor.dtype)


def found_of(model: Any, called: Called, inputs: Inputs) -> tuple[Agreement | None, tuple[Similarity, ...]]:
    """What the models say in float32: how far their predictions agree, how similar they find the sentences."""
    import torch

    arrays = inputs.case.args
    output = nnx.jit(lambda model, *arrays: model(*arrays))(model, *map(jnp.asarray, map(narrow, arrays)))
    with torch.inference_mode():
        theirs = [
            each.float().numpy() for each in called(*(torch.from_numpy(narrow(each)) for each in arrays))
        ]
    ours = [np.asarray(each) for each in leaves(output)]
    if isinstance(output, EncoderOutput):
        mask, texts = inputs.mask, inputs.sentences
        return None, similarities(texts, ours[0], theirs[0], mask) if texts and mask is not None else ()
    # A single score of each token chooses among nothing.
    if getattr(output, "ndim", 0) < 2 or getattr(getattr(model, "head", None), "num_classes", 0) is None:
        return None, ()
    if not hasattr(model, "head"):
        return None, ()
    real = np.ones(ours[0].shape[:-1], bool)
    if inputs.mask is not None and ours[0].ndim == inputs.mask.ndim + 1:
        real = inputs.mask
    return agreement(ours[0][real], theirs[0][real]), ()


def narrow(array: np.ndarray) -> np.ndarray:
    """Floats in the 32 bits that a user computes with."""
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


def similarities(
    sentences: Sequence[str], ours: np.ndarray, theirs: np.ndarray, mask: np.ndarray
) -> tuple[Similarity, ...]:
    """The similarity of each sentence with each, by the mean of its tokens' vectors."""
    flax, torch_ = (_cosines(jnp.asarray(array), mask) for array in (ours, theirs))
    pairs = combinations(range(len(sentences)), 2)
    return tuple(
        Similarity(sentences[i], sentences[j], float(flax[i, j]), float(torch_[i, j])) for i, j in pairs
    )


def _cosines(hidden: jax.Array, mask: np.ndarray) -> np.ndarray:
    vectors = mean_pooling(hidden, jnp.asarray(mask))
    return np.asarray(cosine_similarity(vectors, vectors))
