"""The leaves: what they do otherwise than NNX's is what torch's do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.primitives import Embedding
from jax_attn.weights import load_state_dict, state_dict
from parity_tests.contract import assert_close

IDS = np.array([[5, 0, 1, 0], [1, 6, 1, 5]])


def loss(module, ids):
    return jnp.sum(jnp.cos(module(ids)))


@pytest.mark.parametrize("padding_idx", [None, 0, 1, 6, -1, -7])
@jax.enable_x64(True)
def test_a_padding_row_is_torchs(padding_idx):
    """1 is RoBERTa's; a negative one counts from the end."""
    theirs = torch.nn.Embedding(7, 3, padding_idx).double()
    ours = Embedding(7, 3, padding_idx, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    assert ours.padding_idx == theirs.padding_idx
    np.testing.assert_array_equal(
        (ours.embedding[...] == 0).all(1), (theirs.weight.detach() == 0).all(1).numpy()
    )
    weight = torch.randn(7, 3, dtype=torch.float64)  # whatever was loaded is looked up, padding or not
    theirs.load_state_dict({"weight": weight})
    load_state_dict(ours, {"weight": weight})

    rows = theirs(torch.from_numpy(IDS))
    rows.cos().sum().backward()
    np.testing.assert_array_equal(ours(jnp.asarray(IDS)), rows.detach())
    gradient = nnx.grad(loss)(ours, jnp.asarray(IDS)).embedding[...]
    np.testing.assert_allclose(gradient, theirs.weight.grad, rtol=1e-12, atol=1e-12)
    assert np.abs(gradient).max() > 0.1


def test_a_tied_head_trains_the_padding_row():
    """Only looking it up gives no gradient: torch's rule."""
    ours = Embedding(7, 3, 1, rngs=nnx.Rngs(0))
    theirs = torch.nn.Embedding(7, 3, 1)
    theirs.load_state_dict(state_dict(ours))
    ids = jnp.asarray(IDS)
    gradient = nnx.grad(lambda module: jnp.sum(jnp.cos(module.attend(module(ids)))))(ours).embedding[...]
    rows = theirs(torch.from_numpy(IDS))
    (rows @ theirs.weight.T).cos().sum().backward()
    assert_close([gradient], [theirs.weight.grad])
    ours.embedding.set_value(ours.embedding[...] + 1)
    gradient = nnx.grad(lambda module: jnp.sum(jnp.cos(module.attend(module(ids)))))(ours).embedding[...]
    assert np.abs(gradient[1]).max() > 0.1


@pytest.mark.parametrize("padding_idx", [7, -8])
def test_a_padding_row_outside_the_table_is_refused(padding_idx):
    with pytest.raises(ValueError, match=f"padding_idx must be within num_embeddings=7, got {padding_idx}"):
        Embedding(7, 3, padding_idx, rngs=nnx.Rngs(0))
