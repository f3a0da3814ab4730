from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.models.bert import Bert
from jax_attn.parity.tolerances import WHOLE_MODEL
from jax_attn.weights.state_dict import load_state_dict, state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import in_shapes

TINY = {
    "vocab_size": 31,
    "hidden_size": 26,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 29,
    "max_position_embeddings": 11,
    "type_vocab_size": 3,
}


class TestBert(TwinContract):
    rows = ("bert", "bert-scanned", "bert-pre")
    rounds = drops = False  # the classifier
    elsewhere = ("bert", "bert-scanned", "bert-pre")  # the classifier, and transformers below


def build(**options) -> Bert:
    module = Bert(**(TINY | options), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    module.eval()
    return module


bert = cache(build)


def text(tokens: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, a mask of padding, and segments of three sequences."""
    rng = np.random.default_rng(seed)
    mask = np.arange(tokens) < np.array([[tokens], [3], [1]])
    return rng.integers(31, size=(3, tokens)), mask.astype(int), rng.integers(3, size=(3, tokens))


@nnx.jit
def call(module: Bert, *arrays: jax.Array | None):
    return module(*arrays)


def run(module: Bert, *arrays: np.ndarray | None):
    """What the module returns under `jit`, in NumPy; modules and arrays of the same shapes are compiled once."""
    return jax.tree.map(np.asarray, call(module, *jax.tree.map(jnp.asarray, arrays)))


def assert_as_near(actual, expected) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    error = np.max(np.abs(actual - expected)) / max(1, np.max(np.abs(expected)))
    assert error <= WHOLE_MODEL, f"{error:.1e}"


# transformers.BertModel: a reference that is not ours.

THEIR_NAMES = (
    ("embeddings.token.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.segment.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
    ("encoder.layers.", "encoder.layer."),
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.out_proj.", ".attention.output.dense."),
    (".attention_norm.", ".attention.output.LayerNorm."),
    (".feed_forward.up.", ".intermediate.dense."),
    (".feed_forward.down.", ".output.dense."),
    (".feed_forward_norm.", ".output.LayerNorm."),
)


def theirs_of(key: str) -> str:
    for ours, theirs in THEIR_NAMES:
        key = key.replace(ours, theirs)
    return key


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("eager", {}),
        pytest.param("sdpa", {"hidden_act": "gelu_new", "scan": True}, marks=pytest.mark.slow),
        pytest.param(
            "eager",
            {"hidden_act": "relu", "add_pooling_layer": False, "layer_norm_eps": 1e-5},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sdpa",
            {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 13, "type_vocab_size": 1},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["erf", "tanh-scanned", "relu-unpooled", "thin-heads"],
)
@pytest.mark.filterwarnings("ignore")  # theirs to mend
@jax.enable_x64(True)
def test_transformers_computes_the_same(attention, options):
    import torch
    from transformers import BertConfig, BertModel

    ours = build(**options)
    kept = {key: value for key, value in (TINY | options).items() if key not in ("scan", "add_pooling_layer")}
    config = BertConfig(**kept, attn_implementation=attention)
    pooled = options.get("add_pooling_layer", True)
    theirs = BertModel(config, add_pooling_layer=pooled).double().eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = theirs.state_dict()
    load_state_dict(ours, {key: weights[theirs_of(key)] for key in state_dict(ours)})

    ids, mask, segments = text()
    segments %= options.get("type_vocab_size", 3)
    calls = [(ids, mask, segments), *([] if options else [(ids, None, None)])]
    for arrays in calls:
        given = (None if array is None else torch.from_numpy(array) for array in arrays)
        with torch.no_grad():
            expected = theirs(
                **dict(zip(("input_ids", "attention_mask", "token_type_ids"), given, strict=True))
            )
        output = run(ours, *arrays)
        assert_as_near(output.last_hidden_state, expected.last_hidden_state)
        if pooled:
            assert_as_near(output.pooler_output, expected.pooler_output)
        else:
            assert output.pooler_output is None


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
@jax.enable_x64(True)
def test_what_stands_behind_the_padding_does_not_matter(scan):
    module = bert(scan=scan)
    ids, mask, segments = text()
    other = np.where(mask == 1, ids, 30 - ids)
    expected = run(module, ids, mask, segments)
    output = run(module, other, mask, segments)
    real = mask == 1
    assert_as_near(output.last_hidden_state[real], expected.last_hidden_state[real])
    assert_as_near(output.pooler_output, expected.pooler_output)
    # ... nor that it is there at all.
    cut = run(module, ids[1:2, :3], None, segments[1:2, :3])
    assert_as_near(cut.last_hidden_state[0], expected.last_hidden_state[1, :3])


@jax.enable_x64(True)
def test_list_and_stack_are_the_same_from_the_same_seed():
    for plain, scanned in zip(run(bert(), *text()), run(bert(scan=True), *text()), strict=True):
        assert_as_near(scanned, plain)


@in_shapes
@jax.enable_x64(True)
def test_a_batch_is_its_sequences(batch, tokens):
    module = bert(num_hidden_layers=1)
    ids = np.random.default_rng(0).integers(31, size=(batch, tokens))
    together = run(module, ids)
    assert together.last_hidden_state.shape == (batch, tokens, 26)
    alone = run(module, ids[-1])
    assert_as_near(alone.last_hidden_state, together.last_hidden_state[-1])
    assert_as_near(alone.pooler_output, together.pooler_output[-1])


@jax.enable_x64(True)
def test_a_mask_of_integers_is_one_of_booleans():
    module = bert(num_hidden_layers=1)
    ids, mask, _ = text()
    expected = run(module, ids, mask)
    for dtype in (bool, np.uint8):
        np.testing.assert_array_equal(run(module, ids, mask.astype(dtype))[0], expected[0])


@jax.enable_x64(True)
def test_a_sequence_of_nothing_but_padding_is_finite():
    ids, mask, _ = text()
    output = run(bert(num_hidden_layers=1), ids, mask * np.array([[1], [0], [0]]))
    assert np.isfinite(output.last_hidden_state).all()


def test_every_parameter_has_a_name_of_the_convention():
    parts = {key.rsplit(".", 1)[0] for key in state_dict(CATALOGUE["bert"].flax()) if "layers.1" not in key}
    assert parts == {
        *(f"embeddings.{part}" for part in ("token", "position", "segment", "norm")),
        *(f"encoder.layers.0.attention.{name}_proj" for name in ("q", "k", "v", "out")),
        *(f"encoder.layers.0.feed_forward.{name}" for name in ("up", "down")),
        *(f"encoder.layers.0.{name}_norm" for name in ("attention", "feed_forward")),
        "pooler.dense",
    }


@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.slow), True])
def test_initial_weights_are_those_of_the_paper(scan):
    """N(0, initializer_range), biases of 0, norms of 1 and 0, and nothing for padding."""
    wide = TINY | {"hidden_size": 104, "intermediate_size": 211, "vocab_size": 301}
    weights = state_dict(Bert(**wide, initializer_range=0.3, pad_token_id=5, scan=scan, rngs=nnx.Rngs(0)))
    for key, tensor in weights.items():
        if "norm" in key:
            assert (tensor == (1 if key.endswith("weight") else 0)).all(), key
        elif key.endswith("bias"):
            assert (tensor == 0).all(), key
        elif tensor.numel() > 9000:  # 2% of the deviation is then more than two of its standard errors
            assert abs(float(tensor.std()) / 0.3 - 1) < 0.02, key
            assert abs(float((tensor.abs() < 0.3).double().mean()) - 0.6827) < 0.02, (
                key
            )  # a normal, not a uniform
    assert (weights["embeddings.token.weight"][5] == 0).all()


def test_initial_weights_may_be_torchs():
    module = Bert(**TINY, initializer_range=None, rngs=nnx.Rngs(0))
    kernel = module.encoder.layers[0].feed_forward.up.kernel[...]
    assert 0.9 < float(jnp.abs(kernel).max()) * TINY["hidden_size"] ** 0.5 <= 1
    with pytest.raises(ValueError, match=r"initializer_range must be above 0, or None .*, got 0\.0"):
        Bert(**TINY, initializer_range=0.0, rngs=nnx.Rngs(0))


def test_bad_arguments_are_refused():
    for options, message in (
        (
            {"num_attention_heads": 3},
            "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3",
        ),
        ({"hidden_act": "gleu"}, "activation must be one of gelu, .*, got 'gleu'"),
        ({"norm_placement": "between"}, "norm_placement must be one of post, pre, .*, got 'between'"),
        (
            {"hidden_dropout_prob": 2.0},
            r"hidden_dropout_prob must be a probability .*, got hidden_dropout_prob=2\.0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Bert(**(TINY | options), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("compiled", [False, True])
def test_bad_input_is_refused(compiled):
    module = Bert(**TINY, rngs=nnx.Rngs(0))
    call_of = jax.jit(lambda *call: module(*call)) if compiled else module
    ids = jnp.zeros((3, 5), jnp.int32)
    for call, message in (
        ((jnp.zeros((3, 12), jnp.int32),), "the number of tokens must be at most max_positions=11, got 12"),
        ((jnp.zeros((3, 5)),), "token_ids must be integers, got float32"),
        ((ids, jnp.ones((3, 5))), "attention_mask must be boolean or integers 0 and 1, got float32"),
        ((ids, ids[:, :4]), r"attention_mask must have the shape of input_ids, \(3, 5\), got \(3, 4\)"),
        ((ids, None, ids[0]), r"segment_ids must have shape \(3, 5\), got \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call_of(*call)
