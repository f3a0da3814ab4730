"""Checkpoint folders into modules and back, beside transformers, which we did not write."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jax_attn.functional.sentence import cosine_similarity, mean_pooling
from jax_attn.models.bert import Bert
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.nn.primitives import Linear
from jax_attn.weights import StateDictError, from_config, from_pretrained, numpy_state_dict, save_pretrained
from jax_attn.weights.families import family_of
from jax_attn.weights.families.bert import describe_bert
from jax_attn.weights.plan import longest_stack
from jax_attn.weights.pretrained import BuildOptions, part_of
from jax_attn.weights.sample import minilm_folder
from jax_attn.weights.tokenizer import tokenize

SIZES = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 13,
    "type_vocab_size": 2,
}
IDS = np.random.default_rng(0).integers(0, 31, (3, 11))
MASK = np.arange(11) < np.array([[11], [5], [1]])
SEGMENTS = (np.arange(11) > 4).astype(np.int64) * np.ones((3, 1), np.int64)
SENTENCES = [
    "That is a happy person",
    "That is a very happy individual",
    "그는 행복한 사람이다",
    "오늘은 하늘이 맑다.",
    "Attention is a weighted mean of values, and nothing more than that.",
]


def error(a, b) -> float:
    """The measure of the float64 lane; a whole model is allowed 1e-10."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype == np.float64
    return np.max(np.abs(a - b)) / max(1, np.max(np.abs(b)))


def bits(module) -> dict[str, tuple]:
    tensors = numpy_state_dict(module)
    return {
        key: (value.dtype, value.shape, np.asarray(value, order="C").tobytes())
        for key, value in tensors.items()
    }


def random_module(kind, *args, **kwargs):
    """A module in eval mode with any finite weights, without compiling its initialisers."""
    module = nnx.eval_shape(lambda: kind(*args, **{**SIZES, **kwargs}, rngs=nnx.Rngs(0)))
    draw = np.random.default_rng(0).standard_normal
    params = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape), leaf.dtype), params))

    def still(leaf):  # no dropout is drawn in eval mode, but `nnx.jit` takes no abstract arrays
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jnp.broadcast_to(jax.random.key(0) if is_key else jnp.zeros((), leaf.dtype), leaf.shape)

    nnx.update(module, jax.tree.map(still, nnx.state(module, nnx.RngState)))
    module.eval()
    return module


@nnx.jit
def call(module, *arrays):
    """What a module returns, compiled whole: once for all modules that are built alike."""
    return module(*arrays)


def bert(**kwargs) -> Bert:
    return random_module(Bert, **kwargs)


def hugging_face(kind=transformers.BertModel, **config):
    torch.manual_seed(0)
    model = kind(transformers.BertConfig(**{**SIZES, **config})).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, where much could go wrong unseen
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture
def folder(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **attributes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **attributes}))


def edit_tensors(folder, edit) -> None:
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def assert_equals_hugging_face(ours: Bert, theirs) -> None:
    with torch.no_grad():
        outputs = theirs.double()(
            torch.from_numpy(IDS), torch.from_numpy(MASK).long(), token_type_ids=torch.from_numpy(SEGMENTS)
        )
    hidden, pooled = call(ours, jnp.asarray(IDS), jnp.asarray(MASK), jnp.asarray(SEGMENTS))
    assert error(hidden, outputs.last_hidden_state) <= 1e-10
    assert error(pooled, outputs.pooler_output) <= 1e-10


# ---------------------------------------------------------------------------------------- real weights


@pytest.mark.slow
@jax.enable_x64(True)
def test_minilm_is_transformers_minilm():
    ids, mask = tokenize(minilm_folder(), SENTENCES)
    module = from_pretrained(minilm_folder(), param_dtype="float64")
    outputs = jax.jit(lambda ids, mask: module(ids, mask))(ids, mask)
    theirs = transformers.BertModel.from_pretrained(minilm_folder(), dtype=torch.float64).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    # Padding may hold anything, but is computed alike.
    assert error(outputs.last_hidden_state, expected.last_hidden_state) <= 1e-10
    assert error(outputs.pooler_output, expected.pooler_output) <= 1e-10

    vectors = jax.jit(mean_pooling)(outputs.last_hidden_state, jnp.asarray(mask))
    similarity = np.asarray(jax.jit(cosine_similarity)(vectors, vectors))
    assert round(float(similarity[0, 1]), 4) == 0.8948
    assert similarity[0, 1] > similarity[0, 4]


# ------------------------------------------------------------------------------ tiny random checkpoints


@pytest.mark.parametrize("act", ["gelu", "gelu_new", pytest.param("relu", marks=pytest.mark.slow)])
@jax.enable_x64(True)
def test_every_activation(tmp_path, act):
    theirs = hugging_face(hidden_act=act, layer_norm_eps=1e-5)
    theirs.save_pretrained(tmp_path)
    assert_equals_hugging_face(from_pretrained(tmp_path, param_dtype="float64"), theirs)


@jax.enable_x64(True)
def test_a_stack_and_torchs_format_and_shards(folder):
    hugging_face(num_hidden_layers=2).save_pretrained(folder)
    theirs = transformers.BertModel.from_pretrained(folder)
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    assert_equals_hugging_face(from_pretrained(folder, param_dtype="float64", scan=True), theirs)
    theirs.save_pretrained(folder / "shards", max_shard_size="5KB")
    assert (folder / "shards" / "model.safetensors.index.json").is_file()
    assert_equals_hugging_face(from_pretrained(folder / "shards", param_dtype="float64"), theirs)
    (folder / "model.safetensors").unlink()
    assert_equals_hugging_face(from_pretrained(folder, param_dtype="float64"), theirs)


@jax.enable_x64(True)
def test_the_head_of_another_task_is_left_out_and_told(tmp_path):
    theirs = hugging_face(transformers.BertForSequenceClassification, num_labels=3)
    theirs.save_pretrained(tmp_path)
    told = re.escape(f"{tmp_path}: left out the head of another task: classifier.bias, classifier.weight")
    with pytest.warns(UserWarning, match=f"^{told}$"):
        module = from_pretrained(tmp_path, param_dtype="float64", architecture="Model")
    assert_equals_hugging_face(module, theirs.bert)
    from_pretrained(
        tmp_path, architecture="Model", ignore=["classifier.*"]
    )  # warnings are errors in these tests


def test_a_checkpoint_without_a_pooler(tmp_path):
    hugging_face(transformers.BertForMaskedLM).save_pretrained(tmp_path)
    head = r"left out the head of another task: cls\.predictions\."
    pooler = "built without a pooler, since the checkpoint has none$"
    with pytest.warns(UserWarning, match=head), pytest.warns(UserWarning, match=pooler):
        module = from_pretrained(tmp_path, architecture="BertModel")
    assert module.pooler is None
    assert jax.eval_shape(module, jnp.asarray(IDS)).pooler_output is None
    save_pretrained(module, tmp_path / "again")
    assert bits(from_pretrained(tmp_path / "again")) == bits(module)  # and no warning: its config tells


@jax.enable_x64(True)
def test_old_checkpoints(folder):
    theirs = transformers.BertModel.from_pretrained(folder)

    def age(tensors):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        aged = {
            "bert." + re.sub("|".join(old), lambda m: old[m[0]], key): value for key, value in tensors.items()
        }
        return {**aged, "bert.embeddings.position_ids": np.arange(13)[None]}

    edit_tensors(folder, age)
    assert_equals_hugging_face(from_pretrained(folder, param_dtype="float64"), theirs)


# ---------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "float16"))]
)
def test_the_checkpoints_dtype_is_kept_or_cast(folder, dtype):
    original = load_file(folder / "model.safetensors")
    edit_tensors(
        folder,
        lambda tensors: {
            k: v.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for k, v in tensors.items()
        },
    )
    module = from_pretrained(folder)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))} == {dtype}
    assert jax.eval_shape(module, jnp.asarray(IDS)).last_hidden_state.dtype == dtype
    wide = from_pretrained(folder, param_dtype=jnp.float32)
    np.testing.assert_array_equal(
        wide.embeddings.token.embedding[...],
        original["embeddings.word_embeddings.weight"]
        .astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
        .astype(np.float32),
    )
    computing = from_pretrained(folder, dtype=jnp.float32)
    assert jax.eval_shape(computing, jnp.asarray(IDS)).last_hidden_state.dtype == jnp.float32


def test_mixed_dtypes_become_the_one_that_holds_all(folder):
    def mix(tensors):
        return {
            k: v.astype(ml_dtypes.bfloat16) if "LayerNorm" in k else v.astype(np.float16)
            for k, v in tensors.items()
        }

    edit_tensors(folder, mix)
    assert from_pretrained(folder).embeddings.norm.scale[...].dtype == jnp.float32


def test_float64_is_never_cut_in_silence(folder):
    edit_tensors(folder, lambda tensors: {key: value.astype(np.float64) for key, value in tensors.items()})
    with pytest.raises(
        ValueError, match=r"is to be loaded in float64, which JAX has only after jax\.config\.update"
    ):
        from_pretrained(folder)
    with jax.enable_x64(True):
        assert from_pretrained(folder).embeddings.norm.scale[...].dtype == jnp.float64
    assert from_pretrained(folder, param_dtype="float32").embeddings.norm.scale[...].dtype == jnp.float32
    with pytest.raises(ValueError, match="param_dtype must be a floating dtype, got int32"):
        from_pretrained(folder, param_dtype="int32")


# ----------------------------------------------------------------------------------- modes and options


def test_it_is_in_eval_mode_and_can_be_trained(folder):
    module = from_pretrained(folder)
    ids = jnp.asarray(IDS)
    quiet = np.asarray(call(module, ids)[0])
    np.testing.assert_array_equal(call(module, ids)[0], quiet)
    module.train()
    first, second = (np.asarray(call(module, ids)[0]) for _ in range(2))
    assert (first != second).any()
    assert (first != quiet).any()
    leaves = jax.tree.leaves(nnx.state(module))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves), "nothing may stay abstract"


@pytest.mark.slow
def test_dropout_is_that_of_a_module_built_from_the_same_seed(folder):
    loaded = from_pretrained(folder, seed=5)
    built = Bert(**SIZES, rngs=nnx.Rngs(5))
    nnx.update(built, nnx.state(loaded, nnx.Param))
    loaded.train()
    other = from_pretrained(folder, seed=6)
    other.train()
    of_loaded, of_built, of_other = (
        np.asarray(call(module, jnp.asarray(IDS))[0]) for module in (loaded, built, other)
    )
    np.testing.assert_array_equal(of_loaded, of_built)
    assert (of_other != of_built).any()


def test_overrides(folder):
    module = from_pretrained(folder, hidden_dropout_prob=0.0, scan=True)
    assert module.embeddings.dropout.rate == 0
    assert module.encoder.stacked == ("layers",)
    with pytest.raises(
        TypeError, match=r"num_heads is neither an attribute of .* BertModel .* nor one of scan, remat"
    ):
        from_pretrained(folder, num_heads=3)
    with pytest.raises(ValueError, match=r"config\.json: hidden_dropout_prob='none' must be of type float"):
        from_pretrained(folder, hidden_dropout_prob="none")


@pytest.mark.parametrize("graph", [True, False])
def test_graph_and_tree_mode(folder, graph):
    with nnx.set_graph_mode(graph):
        module = from_pretrained(folder)
        module.train()
        first, second = (np.asarray(call(module, jnp.asarray(IDS))[0]) for _ in range(2))
    assert (first != second).any()


# ------------------------------------------------------------------------------------------------ saving

sizes = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.sampled_from([1, 2, 3, 4, 6]),
        "hidden_act": st.sampled_from(["gelu", "gelu_tanh", "relu"]),
        "add_pooling_layer": st.booleans(),
        "norm_placement": st.sampled_from(["post", "pre"]),
        "positions": st.sampled_from(["learned", "sinusoidal"]),
        "scan": st.booleans(),
        "layer_norm_eps": st.sampled_from([1e-12, 1e-6]),
        "param_dtype": st.sampled_from([jnp.float32, jnp.float16, jnp.bfloat16]),
    }
)


@pytest.mark.parametrize(
    "kwargs",
    [
        {
            "num_hidden_layers": 2,
            "positions": "sinusoidal",
            "norm_placement": "pre",
            "scan": True,
            "add_pooling_layer": False,
        },
        {"hidden_act": "gelu_tanh", "layer_norm_eps": 1e-6, "param_dtype": jnp.bfloat16},
    ],
    ids=["sinusoidal", "bfloat16"],
)
def test_a_round_trip_is_bitwise(tmp_path, kwargs):
    assert_round_trip(tmp_path, kwargs)


@pytest.mark.slow
@settings(max_examples=6)
@given(sizes)
def test_a_round_trip_of_any_sizes_is_bitwise(tmp_path_factory, kwargs):
    assert_round_trip(tmp_path_factory.mktemp("checkpoint"), kwargs)


def assert_round_trip(folder, kwargs) -> None:
    module = bert(**kwargs)
    save_pretrained(module, folder)
    again = from_pretrained(folder, scan=kwargs.get("scan", False))  # without a warning
    assert bits(again) == bits(module)
    assert describe_bert(again) == describe_bert(module)
    if kwargs.get("positions") == "sinusoidal":  # which has no weights that could tell
        np.testing.assert_array_equal(*(call(one, jnp.asarray(IDS))[0] for one in (again, module)))


@pytest.mark.parametrize(
    ("classes", "norm_placement"),
    [pytest.param(*given, marks=pytest.mark.slow) for given in ((1, "post"), (4, "pre"))],
)
def test_a_classifier_round_trip_is_bitwise(tmp_path, classes, norm_placement):
    module = random_module(
        SequenceClassifier, classes, classifier_dropout=0.25, norm_placement=norm_placement
    )
    labels = {str(index): f"class {index}" for index in range(classes)}
    save_pretrained(module, tmp_path, config={"id2label": labels})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["SequenceClassifier"]
    assert config["num_labels"] == classes
    assert config["id2label"] == labels
    again = from_pretrained(tmp_path)
    assert isinstance(again, SequenceClassifier)
    assert again.head.dropout.rate == 0.25
    assert bits(again) == bits(module)
    np.testing.assert_array_equal(*(call(one, jnp.asarray(IDS)) for one in (again, module)))


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh"])
@jax.enable_x64(True)
def test_transformers_reads_what_we_save(tmp_path, act):
    module = bert(param_dtype=jnp.float64, hidden_act=act, layer_norm_eps=1e-3, pad_token_id=4)
    save_pretrained(module, tmp_path)
    theirs, report = transformers.AutoModel.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    assert isinstance(theirs, transformers.BertModel)
    assert not any(report.values()), report
    assert theirs.config.pad_token_id == 4
    assert_equals_hugging_face(module, theirs.eval())


def test_transformers_reads_the_encoder_of_a_classifier(tmp_path):
    module = random_module(SequenceClassifier, 3)
    save_pretrained(module, tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    np.testing.assert_array_equal(
        theirs.embeddings.word_embeddings.weight.detach(), module.model.embeddings.token.embedding[...]
    )


def test_what_is_no_bert_elsewhere_has_a_model_type_of_its_own(tmp_path):
    save_pretrained(bert(norm_placement="pre"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "jax_attn_bert"
    with pytest.raises(ValueError, match="jax_attn_bert"):
        transformers.AutoModel.from_pretrained(tmp_path)


def test_a_checkpoint_is_replaced_and_other_files_are_let_alone(folder):
    (folder / "tokenizer.json").write_text("{}")
    module = bert(intermediate_size=5)
    assert save_pretrained(module, folder) == folder
    assert bits(from_pretrained(folder)) == bits(module)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    save_pretrained(module, folder / "new" / "folder")
    assert bits(from_pretrained(folder / "new" / "folder")) == bits(module)


def test_bad_places_to_save_to_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"port": 8080}')
    with pytest.raises(
        ValueError, match="has no model_type, so it is not a checkpoint's, and is not replaced"
    ):
        save_pretrained(bert(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(NotADirectoryError, match="is a file, and a checkpoint is a folder"):
        save_pretrained(bert(), tmp_path / "config.json")


def test_bad_modules_and_configs_to_save_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"save_pretrained takes what from_pretrained or .* built, .*, got Linear"
    ):
        save_pretrained(Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path)
    module = bert()
    for config, message in [
        ({"hidden_size": 13}, "config: hidden_size=13 contradicts the module, which has 12"),
        ({"when": float("nan")}, "config: Out of range float values are not JSON compliant"),
        ({"what": {1, 2}}, "config: Object of type set is not JSON serializable"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            save_pretrained(module, tmp_path, config=config)
    classifier = random_module(SequenceClassifier, 3)
    with pytest.raises(ValueError, match="config: id2label has 2 labels, the module 3"):
        save_pretrained(classifier, tmp_path, config={"id2label": {"0": "a", "1": "b"}})
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- bad input


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bad_folder_is_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        from_pretrained(tmp_path / "none")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba' is not supported, only "),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not supported",
        ),
        ({"is_decoder": True}, "is_decoder=True is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ({"hidden_act": "selu"}, "hidden_act='selu' is not supported, only 'gelu'"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "quantization_config says that the weights are quantized (gptq), which is not supported",
        ),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan must be a finite number"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps=-1e-12 must be at least 0"),
        ({"architectures": "BertModel"}, "architectures='BertModel' must be a list of names"),
        ({"architectures": 3}, "architectures=3 must be a list of names"),
        ({"hidden_size": [12]}, "hidden_size=[12] must be of type int"),
        ({"novelty": 1}, "novelty=1 is not known here"),
        ({"num_attention_heads": 5}, "got embed_dim=12 and num_heads=5"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be a probability between 0 and 1"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000 must be at most 10000"),
        # No layer is built to find that out.
        (
            {"num_hidden_layers": 10**4},
            "it asks for 10000 layers, which have a tensor each at least; the weights",
        ),
    ],
)
def test_a_bad_config_is_refused(folder, attributes, message):
    edit_config(folder, **attributes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_pretrained(folder)
    assert one_line(caught).startswith(f"{folder / 'config.json'}: ")


def test_layers_that_the_weights_have_no_tensors_for_are_refused_in_a_list_too(tmp_path):
    """Which parts of a model are given as: a DistilBERT is a list of layers, an ALBERT repeats one."""
    sizes = {"vocab_size": 19, "max_position_embeddings": 13}
    transformers.DistilBertModel(
        transformers.DistilBertConfig(**sizes, dim=12, n_layers=1, n_heads=3, hidden_dim=20)
    ).save_pretrained(tmp_path)
    edit_config(tmp_path, n_layers=9999)
    with pytest.raises(
        ValueError, match="it asks for 9999 layers, which have a tensor each at least"
    ) as caught:
        from_pretrained(tmp_path)
    assert one_line(caught).startswith(f"{tmp_path / 'config.json'}: ")
    albert = {
        "model_type": "albert",
        **sizes,
        "hidden_size": 12,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    family = family_of(albert)
    config = {**albert, "embedding_size": 8, "num_hidden_layers": 9999}
    assert longest_stack(part_of(family, "AlbertModel", config, BuildOptions())) == 1


def test_who_knows_better_may_ignore_an_attribute(folder):
    edit_config(folder, novelty=1, is_decoder=True)
    from_pretrained(folder, ignore=["novelty", "is_decoder"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seed": None}, r"^seed must be an integer, got None$"),
        ({"seed": 1.5}, r"^seed must be an integer, got 1\.5$"),
        ({"ignore": None}, r"^ignore must be a list of patterns of names, got None$"),
        ({"ignore": [3]}, r"^ignore must be a list of patterns of names, got \[3\]$"),
        ({"architecture": ["BertModel"]}, r"architecture must be one of .*, got \['BertModel'\]$"),
        ({"model_type": "roberta"}, r"^model_type cannot be overridden: architecture= chooses another"),
        (
            {"architectures": ["BertModel"]},
            r"^architectures cannot be overridden: architecture= chooses another",
        ),
    ],
)
def test_bad_arguments_are_refused(folder, argument, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_pretrained(folder, **argument)


def test_a_pattern_alone_is_one_pattern(folder):
    edit_config(folder, novelty=1)
    from_pretrained(folder, ignore="novelty")
    with pytest.raises(ValueError, match="novelty=1 is not known here"):
        from_pretrained(folder, ignore="*_novelty")  # the first letter alone would fit everything


@pytest.mark.parametrize("dtype", ["int32", "float23"])
def test_a_dtype_that_nothing_is_computed_in_is_refused(folder, dtype):
    message = f"dtype must be a floating dtype, got {dtype!r}"
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        from_config({"model_type": "bert"}, rngs=nnx.Rngs(0), dtype=dtype)


def test_chunking_changes_nothing_and_passes(folder):
    edit_config(folder, chunk_size_feed_forward=4)
    from_pretrained(folder)


def test_bad_tensors_are_all_told_at_once(folder):
    def spoil(tensors):
        tensors["pooler.dense.bias"] = np.full(12, np.nan, np.float32)
        tensors["encoder.layer.0.output.dense.weight"] = np.zeros((12, 16), np.float32)
        tensors["encoder.layer.1.output.dense.bias"] = np.zeros(12, np.float32)
        del tensors["embeddings.LayerNorm.weight"]
        return tensors

    edit_tensors(folder, spoil)
    with pytest.raises(
        StateDictError, match=re.escape(f"the weights in {folder} do not fit its config.json")
    ) as caught:
        from_pretrained(folder)
    assert sorted(caught.value.errors) == [
        "missing: embeddings.LayerNorm.weight (12)",
        "shape: encoder.layer.0.output.dense.weight is (12, 16), expected (12, 17)",
        "unexpected: encoder.layer.1.output.dense.bias (12)",
        "value: pooler.dense.bias holds 12 of 12 float32 values that are NaN or infinite",
    ]


def test_shapes_of_another_config_are_refused(folder):
    edit_config(folder, vocab_size=32)
    message = r"word_embeddings\.weight is \(31, 12\), expected \(32, 12\)$"
    with pytest.raises(StateDictError, match=message) as caught:
        from_pretrained(folder)
    one_line(caught)


def test_the_weights_of_another_family_are_told(folder):
    def llama(tensors):
        width = tensors["pooler.dense.weight"]
        layers = [f"model.layers.{i}.{key}" for i in range(2) for key in ("q_proj.weight", "norm.weight")]
        return {key: width if key.endswith("proj.weight") else width[0] for key in layers}

    edit_tensors(folder, llama)
    with pytest.raises(ValueError, match="holds no tensor of BertModel") as caught:
        from_pretrained(folder)
    assert one_line(caught).startswith(f"the weights in {folder} do not fit its config.json")


def test_weights_that_share_a_few_names_with_the_model_are_anothers_in_one_line(folder):
    """A classifier of images has the keys of a classifier of texts."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(folder)
    hugging_face().config.save_pretrained(folder)
    edit_config(folder, architectures=["BertForSequenceClassification"])
    with pytest.raises(
        StateDictError, match="it holds 2 of the 25 tensors that are expected, and has 38"
    ) as caught:
        from_pretrained(folder)
    assert one_line(caught)
    assert len(caught.value.errors) == 23 + 38


def test_a_size_that_many_tensors_have_is_told_once_and_by_name(folder):
    edit_config(folder, intermediate_size=16)
    with pytest.raises(
        StateDictError, match=r"intermediate_size=16, but .* expected .* and so are \d+ more$"
    ) as caught:
        from_pretrained(folder)
    assert one_line(caught)
    assert len(caught.value.errors) > 2


def test_sizes_beyond_the_weights_are_refused_before_anything_is_computed(folder):
    edit_config(folder, hidden_size=3 * 10**8)
    with pytest.raises(
        ValueError, match=r"it asks for hidden_size=300000000, and all weights .* numbers$"
    ) as caught:
        from_pretrained(folder)
    assert one_line(caught)


@pytest.mark.parametrize("labels", [10**7 + 1, 10**9])
def test_more_labels_than_any_head_has_are_not_drawn(folder, labels):
    with pytest.raises(ValueError, match=f"num_labels={labels} must be at most 10000000") as caught:
        from_pretrained(folder, architecture="ForSequenceClassification", num_labels=labels)
    assert one_line(caught)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=re.escape(f"{path} is corrupt or truncated")) as caught:
        from_pretrained(folder)
    one_line(caught)


def test_an_overflowing_cast_is_refused(folder):
    edit_tensors(folder, lambda tensors: {**tensors, "pooler.dense.bias": np.full(12, 1e6, np.float32)})
    with pytest.raises(
        StateDictError, match=r"pooler\.dense\.bias holds 12 of 12 float16 values that are NaN or inf"
    ):
        from_pretrained(folder, param_dtype="float16")


def test_a_folder_may_be_a_string(folder):
    shutil.copytree(folder, folder / "copy")
    assert bits(from_pretrained(str(folder / "copy"))) == bits(from_pretrained(folder))
