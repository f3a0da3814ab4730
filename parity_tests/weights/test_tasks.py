"""A checkpoint of one task under the head of another, with weights that are there once, twice or not at all."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.models.task_model import TaskModel
from jax_attn.weights import StateDictError, from_config, from_pretrained, numpy_state_dict, save_pretrained

BERT = {
    "model_type": "bert",
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 13,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 17,
}
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives a folder of a model with these settings; it is built once."""
    folders = {}

    def save(config, architecture, **settings):
        key = json.dumps([config, architecture, settings])
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("checkpoint")
            module = from_config(config, architecture=architecture, rngs=nnx.Rngs(3), **settings)
            save_pretrained(module, folders[key])
        return folders[key]

    return save


def edited(folder, to, tensors=lambda tensors: tensors, **attributes):
    """A copy of a checkpoint with other tensors and attributes; `...` takes one away."""
    to.mkdir(exist_ok=True)
    save_file(tensors(load_file(folder / "model.safetensors")), to / "model.safetensors")
    config = {**json.loads((folder / "config.json").read_text()), **attributes}
    config = {name: value for name, value in config.items() if value is not ...}
    (to / "config.json").write_text(json.dumps(config))
    return to


def params(module) -> dict[str, np.ndarray]:
    return numpy_state_dict(module)


def same(one, other, beginning: str = "") -> bool:
    one, other = params(one), params(other)
    keys = {key for key in one if key.startswith(beginning)}
    assert keys == {key for key in other if key.startswith(beginning)} != set()
    return all((one[key] == other[key]).all() for key in keys)


# ------------------------------------------------------------------------------- a head that is not there


def test_a_head_that_the_file_lacks_is_drawn_and_told(saved):
    folder = saved(BERT, "BertModel")
    told = r"drew weights anew, for the checkpoint has none that fit: classifier\.bias, classifier\.weight$"
    with pytest.warns(UserWarning, match=told):
        module = from_pretrained(folder, architecture="ForSequenceClassification", num_labels=7)
    assert isinstance(module, TaskModel)
    bare = from_pretrained(folder)
    assert same(module.model, bare)
    kernel = np.asarray(module.head.linear.kernel[...])
    assert kernel.shape == (12, 7)
    assert 0.01 < kernel.std() < 0.03, "drawn from N(0, 0.02²)"
    assert (module.head.linear.bias[...] == 0).all()
    assert not isinstance(jax.tree.leaves(nnx.state(module))[0], jax.ShapeDtypeStruct)
    with pytest.warns(UserWarning, match="drew weights anew"):
        other = from_pretrained(folder, architecture="ForSequenceClassification", num_labels=7, seed=1)
    assert not same(other, module, "head.")
    assert same(other.model, bare)


def test_what_was_drawn_is_saved_and_loaded_without_a_word(saved, tmp_path):
    with pytest.warns(UserWarning, match="drew weights anew"):
        module = from_pretrained(
            saved(BERT, "BertModel"), architecture="ForSequenceClassification", num_labels=7
        )
    again = from_pretrained(save_pretrained(module, tmp_path))
    assert type(again) is TaskModel
    assert same(again, module)
    assert json.loads((tmp_path / "config.json").read_text())["num_labels"] == 7


@pytest.mark.slow
def test_a_head_of_other_labels_is_drawn_where_they_are_asked_for(saved, tmp_path):
    folder = saved(BERT, "BertForSequenceClassification", num_labels=3)
    with pytest.warns(UserWarning, match=r"drew weights anew, .*: classifier\.bias, classifier\.weight$"):
        module = from_pretrained(folder, num_labels=5)
    assert module.head.linear.kernel.shape == (12, 5)
    assert same(module.model, from_pretrained(folder).model)
    with pytest.raises(StateDictError, match=r"classifier\.bias is \(3\), expected \(4\)"):
        from_pretrained(edited(folder, tmp_path, num_labels=4))  # the file says it, and nobody asked


def test_the_head_of_one_task_gives_way_to_that_of_another(saved):
    folder = saved(BERT, "BertForMaskedLM")
    drew = r"drew weights anew, for the checkpoint has none that fit: classifier\."
    left = r"left out the head of another task: cls\.predictions\."
    with pytest.warns(UserWarning, match=left), pytest.warns(UserWarning, match=drew):
        module = from_pretrained(folder, architecture="ForTokenClassification")
    assert module.head.linear.kernel.shape == (12, 2)


def test_its_own_head_must_be_there(saved, tmp_path):
    folder = saved(BERT, "BertForSequenceClassification", num_labels=3)

    def without_head(tensors):
        return {key: value for key, value in tensors.items() if not key.startswith("classifier.")}

    with pytest.raises(StateDictError, match=r"missing: classifier\.bias \(3\)"):
        from_pretrained(edited(folder, tmp_path, without_head))


# ------------------------------------------------------------------------------------------------ prefixes


PREFIXES = "module.", "_orig_mod.", "model."
HEADS = [
    ("BertModel", None),
    ("BertForSequenceClassification", None),
    ("BertForSequenceClassification", "BertModel"),
    ("BertModel", "BertForSequenceClassification"),
]


@pytest.mark.parametrize(
    ("prefix", "file", "architecture"),
    [  # each prefix and each pair of heads once
        pytest.param(prefix, *heads, marks=[pytest.mark.slow] * (j % len(PREFIXES) != i))
        for i, prefix in enumerate(PREFIXES)
        for j, heads in enumerate(HEADS)
    ],
)
@pytest.mark.filterwarnings("ignore:.*(took the prefix|left out|drew weights)")
def test_wrappers_are_looked_through_with_a_head_and_without(saved, tmp_path, prefix, file, architecture):
    folder = saved(BERT, file)
    wrapped = edited(
        folder, tmp_path, lambda tensors: {prefix + key: value for key, value in tensors.items()}
    )
    assert same(
        from_pretrained(wrapped, architecture=architecture),
        from_pretrained(folder, architecture=architecture),
    )


# ------------------------------------------------------------------------------------------------- tying


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_tied_head_may_be_in_the_file_if_it_is_the_table(saved, tmp_path, prefix):
    folder = saved(LLAMA, "LlamaForCausalLM", tie_word_embeddings=True)
    assert HEAD not in load_file(folder / "model.safetensors")

    def with_head(tensors, change=0.0):
        tensors[HEAD] = tensors[TABLE] + np.float32(change)
        return {prefix + key: value for key, value in tensors.items()}

    again = edited(folder, tmp_path, with_head)
    if prefix:
        with pytest.warns(UserWarning, match="took the prefix"):
            module = from_pretrained(again)
    else:
        module = from_pretrained(again)
    assert same(module, from_pretrained(folder))
    other = edited(folder, tmp_path, lambda tensors: with_head(tensors, 0.5))
    with pytest.raises(StateDictError, match=f"tied: {prefix}{HEAD} differs from {prefix}{TABLE}, and "):
        from_pretrained(other)


def test_an_untied_head_must_be_in_the_file_of_its_own(saved, tmp_path):
    folder = saved(LLAMA, "LlamaForCausalLM", tie_word_embeddings=False)
    assert from_pretrained(folder).head.linear.kernel.shape == (12, 31)
    with pytest.raises(StateDictError, match=re.escape(f"missing: {HEAD} (31, 12)")):
        from_pretrained(edited(folder, tmp_path, lambda t: {k: v for k, v in t.items() if k != HEAD}))


# -------------------------------------------------------------------------------------- initial weights


@pytest.mark.parametrize("config", [BERT, LLAMA])
def test_initial_weights_are_those_of_the_family(config):
    wide = {**config, "vocab_size": 301, "hidden_size": 96, "intermediate_size": 211}
    tensors = params(from_config(wide, rngs=nnx.Rngs(0), initializer_range=0.3))
    for key, tensor in tensors.items():
        if tensor.ndim == 1:
            assert len(np.unique(tensor)) == 1, f"{key}: norms and biases are constant"
        elif tensor.size > 9000:  # 2% of the deviation is then more than two of its standard errors
            assert abs(tensor.std() / 0.3 - 1) < 0.02, key
            assert abs((np.abs(tensor) < 0.3).mean() - 0.6827) < 0.02, f"{key}: a normal, not a uniform"


SMALL_IMAGES = {"image_size": 88, "patch_size": 8, "num_hidden_layers": 1, "hidden_size": 96}
SMALL_T5 = {"vocab_size": 301, "d_model": 96, "d_kv": 40, "d_ff": 130, "num_heads": 3, "num_layers": 2}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTModel", {**SMALL_IMAGES, "intermediate_size": 130, "initializer_range": 0.3}),
        ("Dinov2WithRegistersModel", {**SMALL_IMAGES, "num_register_tokens": 300, "initializer_range": 0.3}),
        ("T5ForConditionalGeneration", {**SMALL_T5, "initializer_factor": 1.5}),
        ("MT5ForTokenClassification", {**SMALL_T5, "num_labels": 120}),
        *(
            (
                f"ModernBertFor{task}",
                {
                    **{
                        "vocab_size": 301,
                        "hidden_size": 96,
                        "intermediate_size": 130,
                        "num_hidden_layers": 4,
                    },
                    **{
                        "initializer_range": 0.3,
                        "num_labels": 120,
                        "pad_token_id": None,
                        "decoder_bias": False,
                    },
                    "tie_word_embeddings": False,
                },
            )
            for task in ("MaskedLM", "TokenClassification")
        ),
        (
            "WhisperModel",
            {
                **{
                    "vocab_size": 101,
                    "num_mel_bins": 40,
                    "d_model": 96,
                    "encoder_layers": 1,
                    "decoder_layers": 1,
                },
                **{
                    "encoder_ffn_dim": 100,
                    "decoder_ffn_dim": 100,
                    "max_target_positions": 100,
                    "init_std": 0.3,
                },
                **{"pad_token_id": 0, "decoder_start_token_id": 2, "bos_token_id": 2, "eos_token_id": 1},
            },
        ),
    ],
)
def test_initial_weights_are_spread_as_those_of_transformers(name, settings, tmp_path):
    """Of tensors of enough numbers the deviation, and how many are within it, which tells a normal from others."""
    import transformers

    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(kind.config_class(**settings)).save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    save_pretrained(from_config(config, rngs=nnx.Rngs(0)), tmp_path / "ours")
    found, wanted = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    compared = 0
    for key, expected in wanted.items():
        tensor, wide = found[key], expected.std()
        if wide == 0:
            assert (tensor == expected.flat[0]).all(), key
        elif expected.size > 9000:  # 4% of the deviation is then more than three errors of the difference
            compared += 1
            assert abs(tensor.std() / wide - 1) < 0.04, key
            within, of_theirs = ((np.abs(each) < wide).mean() for each in (tensor, expected))
            assert abs(within - of_theirs) < 0.04, key
    assert compared > 3


# --------------------------------------------------------------------------------------------- bad input


def test_a_file_of_another_model_is_told_in_a_line(saved, tmp_path):
    config = json.loads((saved(BERT, "BertModel") / "config.json").read_text())
    other = edited(saved(LLAMA, "LlamaForCausalLM"), tmp_path)
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"it holds no tensor of BertModel, .*, but [\w.]+, \.\.\.$"
    ) as caught:
        from_pretrained(other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("layers.0.mlp.up_proj.qweight", np.ones((2, 17), np.int32)),
        ("layers.0.mlp.up_proj.weight_scale_inv", np.ones((1, 1), np.float32)),
    ],
)
def test_quantized_weights_are_refused_by_name(saved, tmp_path, key, tensor):
    folder = edited(saved(LLAMA, "LlamaForCausalLM"), tmp_path, lambda tensors: {**tensors, key: tensor})
    with pytest.raises(
        ValueError, match=re.escape(f"are quantized, which is not supported: they hold {key}")
    ):
        from_pretrained(folder)


def test_weights_of_8_bits_are_refused_by_name(saved, tmp_path):
    import ml_dtypes

    narrow = ml_dtypes.float8_e4m3fn
    folder = edited(saved(LLAMA, "LlamaForCausalLM"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors"
    header, content, start = {}, b"", 0
    for name, value in tensors.items():
        raw = value.astype(narrow).tobytes()
        header[name] = {
            "dtype": "F8_E4M3",
            "shape": list(value.shape),
            "data_offsets": [start, start + len(raw)],
        }
        content, start = content + raw, start + len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    with pytest.raises(ValueError, match=r"are quantized, .*: lm_head\.weight is float8_e4m3fn"):
        from_pretrained(folder)


def test_a_bert_is_saved_with_all_that_its_config_said(saved, tmp_path):
    labels = {"0": "one", "1": "two", "2": "three"}
    folder = edited(saved(BERT, "BertModel"), tmp_path, id2label=labels, initializer_range=0.3)
    again = save_pretrained(from_pretrained(folder), tmp_path / "again")
    before, after = (json.loads((each / "config.json").read_text()) for each in (folder, again))
    assert before == after


@pytest.mark.parametrize("name", ["BertForNothing", "BertModel"])
def test_a_class_that_is_not_known_is_told_where_the_model_alone_does_not_fit(saved, tmp_path, name):
    folder = edited(
        saved(BERT, "BertModel"),
        tmp_path,
        lambda tensors: {key: value for key, value in tensors.items() if "embeddings" in key},
        architectures=[name],
    )
    with pytest.raises(StateDictError, match=r"do not fit its config\.json") as caught:
        from_pretrained(folder, architecture="ForMaskedLM" if name == "BertModel" else None)
    told = "read as BertModel: BertForNothing is not known here" in str(caught.value)
    assert told is ("is not known" in str(caught.value)) is (name == "BertForNothing")


def test_an_override_of_what_stands_elsewhere_is_refused():
    config = {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    with pytest.raises(ValueError, match="rope_theta stands in rope_parameters, which decides"):
        from_config(config, rngs=nnx.Rngs(0), rope_theta=500.0)


def test_overrides_that_nobody_knows_are_refused(saved):
    with pytest.raises(TypeError, match=r"novelty is neither an attribute of config\.json"):
        from_config(BERT, rngs=nnx.Rngs(0), novelty=1)
    with pytest.raises(ValueError, match="architecture must be one of BertModel, "):
        from_pretrained(saved(BERT, "BertModel"), architecture="ForNothing")


def test_a_sharding_is_one_for_all_or_a_function(saved):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    folder = saved(BERT, "BertModel")
    asked = []

    def one(path, shape):
        asked.append((path, shape))
        return here if path.endswith("kernel") else None

    module = from_pretrained(folder, sharding=one)
    assert ("encoder.layers.0.feed_forward.up.kernel", (12, 17)) in asked
    assert module.encoder.layers[0].feed_forward.up.kernel[...].committed
    assert not module.encoder.layers[0].feed_forward.up.bias[...].committed
    everywhere = from_pretrained(folder, sharding=here)
    assert all(leaf.committed for leaf in jax.tree.leaves(nnx.state(everywhere, nnx.Param)))
    assert same(module, everywhere)
    for sharding in ("model", lambda path, shape: "model"):
        with pytest.raises(
            ValueError, match=r"sharding must be a jax\.sharding\.Sharding or give one .*'model'"
        ):
            from_pretrained(folder, sharding=sharding)


# ------------------------------------------------------------------------------------------------- saving


def test_shards_are_read_back_and_replace_what_was_there(saved, tmp_path):
    module = from_pretrained(saved(LLAMA, "LlamaForCausalLM"))
    save_pretrained(module, tmp_path)
    save_pretrained(module, tmp_path, max_shard_size=3000)
    names = sorted(path.name for path in tmp_path.iterdir())
    shards = [name for name in names if name.startswith("model-")]
    assert names == ["config.json", *shards, "model.safetensors.index.json"]
    assert len(shards) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in params(module).values())
    assert same(from_pretrained(tmp_path), module)
    save_pretrained(module, tmp_path, max_shard_size="1MB")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for size in ("3 apples", 0, "5gb"):
        with pytest.raises(ValueError, match="max_shard_size must be a number of bytes"):
            save_pretrained(module, tmp_path, max_shard_size=size)


def test_a_module_that_is_no_longer_what_its_config_says_is_not_saved(saved, tmp_path):
    module = from_pretrained(saved(LLAMA, "LlamaForCausalLM"))
    module.head.linear.kernel = nnx.Param(jnp.zeros((12, 33)))
    message = r"no longer the LlamaForCausalLM of its config: lm_head\.weight is \(33, 12\), .* \(31, 12\)"
    with pytest.raises(ValueError, match=message):
        save_pretrained(module, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_own_classifier_is_one_of_the_heads(saved):
    unused = r"left out what SequenceClassifier has no use for: pooler\.dense\.bias, pooler\.dense\.weight$"
    with pytest.warns(UserWarning, match="drew weights anew"), pytest.warns(UserWarning, match=unused):
        module = from_pretrained(saved(BERT, "BertModel"), architecture="SequenceClassifier", num_labels=4)
    assert isinstance(module, SequenceClassifier)
