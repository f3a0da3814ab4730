"""A record holds what the modules returned, under the right tokens; torch's beside it is torch's own."""

import numpy as np
import pytest
import torch
from flax import nnx

import torch_ref
from jax_attn.nn import Encoder, MultiHeadAttention, capture_attention_weights
from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.visualize import AttentionRecord, TokenAxis, record_attention, torch_attention_weights
from jax_attn.weights import load_state_dict

SIZES = {"num_layers": 2, "embed_dim": 12, "num_heads": 3, "hidden_dim": 7}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)


def encoder(**options):
    return Encoder(**SIZES, **options, rngs=nnx.Rngs(0))


def test_weights_are_those_that_the_module_returns(x):
    """Of layers that a scan has stacked, one by one."""
    model = encoder(scan=True)
    record = record_attention(model, x, tokens="abcde", row=1)
    _, captured = nnx.jit(lambda model, x: capture_attention_weights(model)(x))(model, x)
    expected = np.concatenate([np.asarray(each).reshape(-1, 2, 3, 5, 5) for each in captured.values()])[:, 1]
    (stack,) = record.stacks
    assert [layer.number for layer in stack.layers] == [0, 1]
    assert stack.queries.labels == tuple("abcde")
    for layer, weights in zip(stack.layers, expected, strict=True):
        np.testing.assert_allclose(layer.weights, weights, rtol=SAME_FLOAT32)
        scores = layer.query @ layer.key.mT
        softmax = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(softmax, layer.weights, rtol=SAME_FLOAT32)
    (chosen,) = record.select(layers=[1], heads=[0, 2]).stacks
    assert ([layer.number for layer in chosen.layers], chosen.heads) == ([1], (0, 2))
    assert np.array_equal(chosen.layers[0].weights, stack.layers[1].weights[[0, 2]])


def test_heads_that_share_a_key_have_it_each(x):
    model = MultiHeadAttention(12, 4, num_kv_heads=2, rngs=nnx.Rngs(0))
    (layer,) = record_attention(model, x).stacks[0].layers
    assert layer.key.shape == layer.query.shape == (4, 5, 3)
    assert np.array_equal(layer.key[0], layer.key[1])
    assert not np.array_equal(layer.key[1], layer.key[2])


@pytest.mark.parametrize("kind", ["twin", "torch's own"])
def test_torch_gives_its_own_weights_and_returns_what_it_did(x, kind):
    if kind == "twin":
        module = torch_ref.nn.Encoder(**SIZES)
        model = load_state_dict(encoder(), module.state_dict())
    else:
        layer = torch.nn.TransformerEncoderLayer(12, 3, 7, batch_first=True, dropout=0.0)
        module, model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), None
    module.eval()
    with torch.no_grad():
        before = module(torch.tensor(x))
        found = torch_attention_weights(module, x)
        assert torch.equal(module(torch.tensor(x)), before)
    assert [[each.shape for each in calls] for calls in found.values()] == [[(2, 3, 5, 5)]] * 2
    assert all(np.allclose(calls[0].sum(-1), 1) for calls in found.values())
    if model is not None:
        record = record_attention(model, x, other=found)
        assert 0 <= max(layer.apart for layer in record.stacks[0].layers) < 1e-6
        assert record.other == "torch"
        del found["layers.1.attention"]
        with pytest.raises(ValueError, match="torch must have as many calls of attention as flax, 2, got 1"):
            record_attention(model, x, other=found)


def test_bad_input_is_refused_in_one_line(x):
    model = encoder()
    with pytest.raises(ValueError, match=r"model must be an nnx\.Module"):
        record_attention(len, x)
    with pytest.raises(ValueError, match="no attention of LayerNorm gave weights"):
        record_attention(nnx.LayerNorm(12, rngs=nnx.Rngs(0)), x)
    with pytest.raises(ValueError, match="row must be from 0 to 1, got 2"):
        record_attention(model, x, row=2)
    with pytest.raises(ValueError, match=r"must be \(heads, queries, keys\) = \(3, 2, 2\)"):
        record_attention(model, x, tokens="ab")
    with pytest.raises(ValueError, match="no attention of Linear gave weights"):
        torch_attention_weights(torch.nn.Linear(12, 3), x)
    weights = np.full((1, 2, 3, 3), 1 / 3, np.float32)
    record = AttentionRecord.from_weights(weights)
    assert record.stacks[0].queries.labels == ("0", "1", "2")
    with pytest.raises(ValueError, match="layers must be from 0 to 0, got 4"):
        record.select(layers=[4])
    with pytest.raises(ValueError, match="heads must be from 0 to 1, got -1"):
        record.select(heads=[-1])
    weights[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        AttentionRecord.from_weights(weights)
    with pytest.raises(ValueError, match="segments must have one entry for each of 2 labels, got 1"):
        TokenAxis(("a", "b"), segments=(1,))
    with pytest.raises(ValueError, match=r"grid must be of the 1 patches that are not special, got \(1, 2\)"):
        TokenAxis(("a", "b"), special=(True, False), grid=(1, 2))


def test_weights_of_the_attentions_of_flax_and_torch(x):
    original = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    port = nnx.MultiHeadAttention(3, 12, decode=False, rngs=nnx.Rngs(0))
    load_state_dict(port, original.state_dict())
    tokens = torch.tensor(x)
    _, expected = original(tokens, tokens, tokens, average_attn_weights=False)
    ((layer,),) = (stack.layers for stack in record_attention(port, x, row=1).stacks)
    np.testing.assert_allclose(layer.weights, expected[1].detach(), rtol=SAME_FLOAT32)
    scores = layer.query @ layer.key.mT
    np.testing.assert_allclose(
        np.exp(scores) / np.exp(scores).sum(-1, keepdims=True), layer.weights, rtol=SAME_FLOAT32
    )


def test_an_attention_of_flax_with_a_function_of_its_own_gives_none(x):
    def sharper(query, key, value, **options):
        return nnx.dot_product_attention(9 * query, key, value)

    model = nnx.MultiHeadAttention(3, 12, decode=False, attention_fn=sharper, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no attention of MultiHeadAttention gave weights"):
        record_attention(model, x)
