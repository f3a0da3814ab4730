"""What we save is what transformers loads, and what `config.json` says of it is true."""

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from jax_attn.nn.primitives import RMSNorm
from jax_attn.parity.cases import Case
from jax_attn.weights import from_config, from_pretrained, save_pretrained
from parity_tests.weights.families import decoder_contract, encoder_decoders
from parity_tests.weights.test_tasks import BERT, LLAMA

T5 = {
    "model_type": "t5",
    "vocab_size": encoder_decoders.VOCAB,
    "d_model": 14,
    "d_kv": 5,
    "d_ff": 17,
    "num_layers": 1,
    "num_heads": 3,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("config", "architecture", "auto", "case", "calls"),
    [
        (
            LLAMA,
            "LlamaForCausalLM",
            AutoModelForCausalLM,
            Case("padded", (decoder_contract.IDS, decoder_contract.REAL)),
            (decoder_contract.call_ours, decoder_contract.call_theirs),
        ),
        (T5, "T5ForConditionalGeneration", AutoModelForSeq2SeqLM, encoder_decoders.TEXTS, ()),
    ],
)
def test_transformers_loads_what_we_save_and_computes_the_same(
    config, architecture, auto, case, calls, tmp_path
):
    with jax.enable_x64(True):
        ours = from_config(config, architecture=architecture, rngs=nnx.Rngs(3), param_dtype=jnp.float64)
        save_pretrained(ours, tmp_path)
        theirs, loading = auto.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
        assert not any(loading.values()), loading
        encoder_decoders.assert_same_outputs(ours, theirs, case, *calls)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    return save_pretrained(from_config(LLAMA, architecture="LlamaForCausalLM", rngs=nnx.Rngs(0)), folder)


def epsilon(module):
    module.model.decoder.norm.eps = 0.1


def activation(module):
    module.model.decoder.layers[0].feed_forward.activation = "gelu"


def other_class(module):
    module.model.decoder.norm = Doubled(12, rngs=nnx.Rngs(0))


class Doubled(RMSNorm):
    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (epsilon, r"model\.decoder\.norm\.eps is 0\.1, and by the config 1e-06$"),
        (
            activation,
            r"model\.decoder\.layers\.0\.feed_forward\.activation is 'gelu', and by the config 'silu'$",
        ),
        (other_class, r"model\.decoder\.norm is a Doubled, and by the config a RMSNorm$"),
    ],
)
def test_a_module_that_computes_something_else_than_its_config_says_is_not_saved(
    change, message, llama, tmp_path
):
    module = from_pretrained(llama)
    change(module)
    with pytest.raises(ValueError, match=r"no longer the LlamaForCausalLM of its config: " + message):
        save_pretrained(module, tmp_path)
    assert not list(tmp_path.iterdir())


def test_how_a_module_is_run_and_compiled_is_no_change(llama, tmp_path):
    module = from_pretrained(llama, dtype=jnp.bfloat16, scan=True, remat=True)
    module.train()
    save_pretrained(module, tmp_path)


def test_labels_are_named_by_their_numbers(tmp_path):
    """Transformers fails on anything else."""
    for labels in (["good", "bad"], {"good": 0, "bad": 1}):
        with pytest.raises(ValueError, match=r"id2label=.* must be an object of the names of labels"):
            from_config({**BERT, "id2label": labels}, rngs=nnx.Rngs(0))
    module = from_config(BERT, architecture="BertForSequenceClassification", rngs=nnx.Rngs(0), num_labels=2)
    with pytest.raises(ValueError, match="config: id2label must be a dict from numbers to names"):
        save_pretrained(module, tmp_path, config={"id2label": ["good", "bad"]})
