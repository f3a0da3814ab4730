"""A checkpoint of any kind is proved: what its model takes is made up, and both references are asked."""

import json
import re

import pytest
import torch

from jax_attn.catalogue.inputs import inputs_of
from jax_attn.catalogue.pretrained import beside_transformers, prove_checkpoint, transformers_twin
from jax_attn.weights import from_pretrained

SIZES = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
AUDIO = {"vocab_size": 31, "d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 5}
KINDS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "intermediate_size": 17}),
    "bert": ("BertForQuestionAnswering", "BertConfig", {**SIZES, "intermediate_size": 17}),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {
            "hidden_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 17,
            "image_size": 6,
            "patch_size": 3,
            "num_channels": 2,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 31, "d_model": 12, "d_kv": 5, "d_ff": 17, "num_layers": 1, "num_heads": 2},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **AUDIO,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 17,
            "decoder_ffn_dim": 17,
            "max_source_positions": 8,
            "max_target_positions": 9,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}


@pytest.fixture
def folder(request, tmp_path):
    """A tiny checkpoint of the kind that the test names, saved by transformers."""
    import transformers

    model, config, sizes = KINDS[request.param]
    torch.manual_seed(0)
    module = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    module.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "names", "shapes"),
    [
        ("llama", ("input_ids", "attention_mask"), [(2, 12), (2, 12)]),
        ("vit", ("pixel_values",), [(2, 2, 6, 6)]),
        ("t5", ("input_ids", "decoder_input_ids", "attention_mask"), [(2, 12), (2, 7), (2, 12)]),
        ("whisper", ("input_features", "decoder_input_ids"), [(1, 5, 16), (1, 9)]),
    ],
    indirect=["folder"],
)
def test_a_model_is_given_what_it_takes(folder, names, shapes):
    module = from_pretrained(folder)
    inputs = inputs_of(module, folder, module.config)
    assert inputs.names == names
    assert [array.shape for array in inputs.case.args] == shapes
    again = inputs_of(module, folder, module.config)
    assert all((a == b).all() for a, b in zip(inputs.case.args, again.case.args, strict=True))
    if names[0] != "input_ids":
        with pytest.raises(ValueError, match=r"takes no sentences, but (images|audio)"):
            inputs_of(module, folder, module.config, ["a text"])
    elif inputs.mask is not None:
        assert inputs.mask.sum(1).tolist() == [12, 7]


@pytest.mark.parametrize(
    "folder",
    ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bert", "vit", "t5", "whisper"))],
    indirect=True,
)
def test_any_kind_is_proved_beside_its_twin_and_transformers(folder):
    proof = prove_checkpoint(folder, lanes=["float64"])
    assert proof.passed, proof.report.text(True)
    assert proof.transformers is not None
    assert proof.transformers.worst("float64", "gradient") is not None
    assert proof.similarities == ()
    data = json.loads(json.dumps(proof.to_json()))
    assert data["passed"]
    assert data["read"] == proof.read
    if "QuestionAnswering" in proof.architecture:  # which scores no classes
        assert proof.agreement is None
    else:
        assert proof.agreement.divergence < 1e-6
        assert proof.agreement.top1 == proof.agreement.top5 == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_a_model_that_computes_something_else_is_seen(folder):
    """Against transformers alone: its config says another base of the rotary positions than ours has read."""
    module = from_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rope_theta": 100.0, "rope_parameters": None}))
    theirs = transformers_twin(module, folder, asked=True)
    inputs = inputs_of(module, folder, module.config)
    report = beside_transformers(module, theirs, inputs, ["float64"], "llama", lambda line: None)
    assert not report.passed


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_what_cannot_be_compared_is_refused(folder):
    with pytest.raises(FileNotFoundError, match=re.escape("has no tokenizer.json")):
        prove_checkpoint(folder, ["a text"])
    module = from_pretrained(folder)
    module.config = type(module.config)({**module.config, "architectures": ["LlamaForNothing"]})
    with pytest.raises(ValueError, match="transformers has no LlamaForNothing of model_type 'llama'"):
        transformers_twin(module, folder, asked=True)
    assert transformers_twin(module, folder) is None
