"""T5, mT5 and UMT5 beside transformers'."""

import json

import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.weights import from_config, from_pretrained, save_pretrained
from jax_attn.weights.state_dict import numpy_state_dict
from parity_tests.weights.families.encoder_decoders import (
    SOURCE,
    SOURCE_IDS,
    VOCAB,
    assert_family,
    assert_same_outputs,
)
from parity_tests.weights.families.transformers_models import EXACT, LANES, TRAINING, built, drawn

SIZES = {
    "vocab_size": VOCAB,
    "d_model": 14,
    "d_kv": 5,
    "d_ff": 17,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 5,
    "dropout_rate": 0.2,
    "layer_norm_epsilon": 1e-3,
    "decoder_start_token_id": 0,
}


def theirs(kind: str, own_head: bool = False, **options):
    from importlib import import_module

    name = kind[: kind.index("T5") + 2]
    module = import_module(f"transformers.models.{name.lower()}.modeling_{name.lower()}")
    config = getattr(module, f"{name}Config")(**{**SIZES, **options}, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(module, kind)(config)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, SIZES["d_model"]))
    return model


@pytest.mark.parametrize(
    ("kind", "options", "lanes"),
    [
        ("T5ForConditionalGeneration", {}, TRAINING),
        pytest.param("T5ForConditionalGeneration", {}, EXACT, marks=pytest.mark.slow),
        pytest.param(
            "T5Model", {"feed_forward_proj": "gelu", "num_decoder_layers": 3}, LANES, marks=pytest.mark.slow
        ),
        pytest.param(
            "T5ForConditionalGeneration",
            {"own_head": True, "tie_word_embeddings": False, "feed_forward_proj": "gated-silu"},
            LANES,
            marks=pytest.mark.slow,
        ),
        pytest.param("MT5ForConditionalGeneration", {"own_head": True}, LANES, marks=pytest.mark.slow),
        pytest.param(
            "UMT5ForConditionalGeneration", {"num_decoder_layers": 2}, LANES, marks=pytest.mark.slow
        ),
    ],
)
def test_transformers_computes_the_same(kind, options, lanes, tmp_path):
    ours = assert_family(theirs(kind, **options), tmp_path, lanes=lanes)
    assert ours.config["decoder_start_token_id"] == 0


@pytest.mark.slow
def test_a_gate_and_a_head_of_its_own(tmp_path):
    """T5 v1.1, whose scores are not scaled; the tensors of its feed-forward have other names."""
    options = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", "num_layers": 1}
    assert_family(theirs("T5ForConditionalGeneration", own_head=True, **options), tmp_path)


@pytest.mark.slow
def test_each_layer_of_umt5_has_positions_of_its_own(tmp_path):
    model = theirs("UMT5ForConditionalGeneration", num_layers=1, feed_forward_proj="relu")
    assert_family(model, tmp_path, lanes=("float64",))


@pytest.mark.slow
def test_the_encoder_alone_is_that_of_transformers_and_comes_from_a_whole_model_too(tmp_path):
    def ours(module, ids, mask):
        return module(ids, mask).last_hidden_state * mask[..., None]

    def others(module, ids, mask):
        return module(ids, attention_mask=mask).last_hidden_state * mask[..., None]

    case = Case("texts", (SOURCE_IDS, SOURCE))
    module = assert_family(theirs("T5EncoderModel"), tmp_path, case, ours, others, lanes=("float64",))
    whole = drawn(theirs("T5ForConditionalGeneration"))
    whole.save_pretrained(tmp_path / "whole")
    with pytest.warns(UserWarning, match="left out .*decoder.block.0"):
        alone = from_pretrained(tmp_path / "whole", architecture="EncoderModel")
    assert type(alone) is type(module)
    assert_same_outputs(alone, whole.encoder, case, ours, others)


@pytest.mark.slow
def test_a_head_for_the_tokens_that_the_encoder_reads(tmp_path):
    def ours(module, ids, mask):
        return module(ids, mask) * mask[..., None]

    def others(module, ids, mask):
        return module(ids, attention_mask=mask).logits * mask[..., None]

    case = Case("texts", (SOURCE_IDS, SOURCE))
    model = theirs("T5ForTokenClassification", num_labels=4, classifier_dropout=0.3)
    assert_family(model, tmp_path, case, ours, others)


@pytest.mark.slow
def test_files_from_before_safetensors_and_what_is_refused(tmp_path):
    """They repeat the table under each of its names."""
    model = drawn(theirs("T5ForConditionalGeneration", num_layers=1))
    model.save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    old = {name: value for name, value in config.items() if name != "scale_decoder_outputs"}
    (tmp_path / "old" / "config.json").write_text(json.dumps({**old, "n_positions": 512}))
    new, again = (numpy_state_dict(from_pretrained(tmp_path / name)) for name in ("new", "old"))
    assert new.keys() == again.keys()
    assert all(np.array_equal(new[key], again[key]) for key in new)

    # Where there is no head of its own though the config could mean one, this is noted.
    mt5 = drawn(theirs("MT5ForConditionalGeneration", num_layers=1))
    mt5.save_pretrained(tmp_path / "mt5")
    again = from_pretrained(save_pretrained(from_pretrained(tmp_path / "mt5"), tmp_path / "again"))
    assert_same_outputs(again, mt5)
    for options, message in (
        ({"feed_forward_proj": "gated-selu"}, "feed_forward_proj='gated-selu' is not supported"),
        (
            {"tie_word_embeddings": False, "scale_decoder_outputs": True},
            "scale_decoder_outputs=True is not supported beside a head of its own",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({**config, **options}, rngs=nnx.Rngs(0))


def test_an_activation_beside_the_one_that_decides_is_refused():
    sizes = {"vocab_size": 5, "d_model": 4, "d_kv": 2, "d_ff": 6, "num_layers": 1, "num_heads": 2}
    for name, act, message in (
        ("relu", "silu", "dense_act_fn='silu' is not supported beside feed_forward_proj='relu'"),
        ("gated-gelu", "gelu", "dense_act_fn='gelu' is not supported beside feed_forward_proj='gated-gelu'"),
    ):
        with pytest.raises(ValueError, match=message):
            built({"model_type": "t5", **sizes, "feed_forward_proj": name, "dense_act_fn": act})
    built({"model_type": "t5", **sizes, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new"})
    for kind, said, message in (
        ("t5", {"dense_act_fn": "gelu_new"}, "dense_act_fn='gelu_new' is not .* feed_forward_proj='relu'"),
        ("mt5", {"dense_act_fn": "relu"}, "dense_act_fn='relu' is not .* feed_forward_proj='gated-gelu'"),
        ("t5", {"is_gated_act": True}, "is_gated_act=True is not supported beside feed_forward_proj='relu'"),
        ("umt5", {"is_gated_act": False}, "is_gated_act=False is not .* feed_forward_proj='gated-gelu'"),
    ):
        unsaid = {name: value for name, value in sizes.items() if name != "feed_forward_proj"}
        with pytest.raises(ValueError, match=message):
            built({"model_type": kind, **unsaid, **said})
