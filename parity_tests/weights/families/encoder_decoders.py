"""What each family of encoder-decoders is held to, beside transformers."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.weights import from_pretrained
from jax_attn.weights.families import family_of
from parity_tests.weights.families.transformers_models import assert_saved_alike, drawn

VOCAB = 31
RNG = np.random.default_rng(0)
# The first two lengths differ; padding stands behind and before.
SOURCE = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
TARGET = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
SOURCE_IDS, TARGET_IDS = (RNG.integers(3, VOCAB, mask.shape) for mask in (SOURCE, TARGET))
TEXTS = Case("padding on both sides", (SOURCE_IDS, TARGET_IDS, SOURCE, TARGET))


def call_ours(module: Any, inputs: Any, ids: Any, mask: Any = None, of_ids: Any = None) -> Any:
    """Padding gives nothing that anyone reads."""
    output = module(inputs, ids, mask, of_ids)
    return output if of_ids is None else output * of_ids[..., None]


def call_theirs(module: Any, inputs: Any, ids: Any, mask: Any = None, of_ids: Any = None) -> Any:
    """The same of theirs."""
    masks = {} if mask is None else {"attention_mask": mask, "decoder_attention_mask": of_ids}
    name = module.main_input_name
    output = module(**{name: inputs}, decoder_input_ids=ids, use_cache=False, **masks)
    output = output.logits if "logits" in output else output.last_hidden_state
    return output if of_ids is None else output * of_ids[..., None]


def assert_family(
    theirs: Any,
    tmp_path: Path,
    case: Case = TEXTS,
    call_flax: Any = call_ours,
    call_torch: Any = call_theirs,
    lanes: tuple[str, ...] = ("float64", "dropout"),
    **overrides: Any,
) -> Any:
    """Theirs is saved; what we load computes the same, gradients and training too; what we save is the same file.

    The layers are a loop in float64, and a list where dropout is drawn. Our module of the last lane is returned.
    """
    theirs = drawn(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    for lane in lanes:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = from_pretrained(tmp_path / "theirs", scan=lane == "float64", **overrides)
        names = family_of(ours.config).keys(ours.config["architectures"][0])
        report = compare_cases(
            ours,
            theirs,
            [case],
            lanes=[lane],
            weights=None,
            names=names,
            whole_model=True,
            call_flax=call_flax,
            call_torch=call_torch,
        )
        report.assert_passed()
        assert lane in report.lanes
    assert_saved_alike(ours, tmp_path)
    return ours


def assert_same_outputs(
    ours: Any, theirs: Any, case: Case = TEXTS, call_flax: Any = call_ours, call_torch: Any = call_theirs
) -> None:
    """Each with the weights that it has, both compute the same in float64."""
    calls = {"call_flax": call_flax, "call_torch": call_torch}
    report = compare_cases(
        ours, theirs, [case], lanes=("float64",), weights=None, whole_model=True, gradients=False, **calls
    )
    report.assert_passed()
