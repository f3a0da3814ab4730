import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.positions.attention_positions import token_positions
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions
from parity_tests.contract import TwinContract


class TestLearnedPositions(TwinContract):
    rows = ("positions-learned", "positions-learned-offset")


def test_each_position_has_a_vector_of_its_own():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    added = module(jnp.zeros((3, 5, 7)))
    np.testing.assert_array_equal(added, jnp.broadcast_to(module.embedding[:5], (3, 5, 7)))


def test_positions_that_are_not_reached_get_no_gradient():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    gradient = nnx.grad(lambda module: jnp.sum(module(jnp.zeros((3, 5, 7)))))(module)["embedding"][...]
    np.testing.assert_array_equal(gradient, jnp.zeros((11, 7)).at[:5].set(3))


@jax.enable_x64(True)
def test_roberta_and_opt_count_from_their_offset_and_pass_padding_by():
    import torch
    from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    ids = torch.tensor([[5, 6, 7, 8, 9], [1, 1, 5, 6, 7], [5, 6, 1, 1, 1]])  # 1 is padding
    mask = (ids != 1).int()
    positions = token_positions(jnp.asarray(mask == 1), padding=-1)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2], [0, 1, -1, -1, -1]])
    rows = RobertaEmbeddings.create_position_ids_from_input_ids(ids, padding_idx=1)
    opt = OPTLearnedPositionalEmbedding(11, 7)
    roberta = torch.nn.Embedding(13, 7, padding_idx=1)
    for theirs, added, padding_idx in ((roberta, roberta(rows), 1), (opt, opt(mask), None)):
        module = LearnedPositions(13, 7, 2, padding_idx, rngs=nnx.Rngs(0))
        module.embedding.set_value(jnp.asarray(theirs.weight.detach().numpy()))
        np.testing.assert_array_equal(module(jnp.zeros((3, 5, 7), jnp.float32), positions), added.detach())
        added.sum().backward()
        run = nnx.jit(nnx.grad(lambda module: jnp.sum(module(jnp.zeros((3, 5, 7)), positions))))
        np.testing.assert_array_equal(run(module)["embedding"][...], theirs.weight.grad)


def test_a_token_that_is_decoded_stands_where_it_stands():
    module = LearnedPositions(11, 7, 2, rngs=nnx.Rngs(0))
    at = jnp.array([[4], [8]])
    np.testing.assert_array_equal(
        module(jnp.zeros((2, 1, 7)), at)[:, 0], module.embedding[...][jnp.array([6, 10])]
    )
    assert np.isnan(module(jnp.zeros((2, 1, 7)), jnp.array([[9], [10]]))).all()  # past the table


def test_bad_input_is_refused():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    for run in (module, jax.jit(lambda x: module(x))):
        with pytest.raises(
            ValueError, match="the number of tokens must be at most num_embeddings=11, got 12"
        ):
            run(jnp.ones((3, 12, 7)))
        with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 6\)"):
            run(jnp.ones((5, 6)))


def test_bad_positions_are_refused():
    for offset, message in (
        (-1, "offset must be at least 0, got offset=-1"),
        (11, "offset must be at least 0 and below num_embeddings=11, got 11"),
    ):
        with pytest.raises(ValueError, match=message):
            LearnedPositions(11, 7, offset, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="the number of tokens must be at most num_embeddings - offset=9, got 10"
    ):
        LearnedPositions(11, 7, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 10, 7)))
    for module in (LearnedPositions(11, 7, rngs=nnx.Rngs(0)), SinusoidalPositions(11, 7)):
        with pytest.raises(
            ValueError, match=r"positions must have shape \(1, 5\) or \(3, 5\) or \(5,\), got \(3,\)"
        ):
            module(jnp.ones((3, 5, 7)), jnp.arange(3))
        with pytest.raises(ValueError, match=r"positions must have shape \(5,\), got \(1, 5\)"):
            module(jnp.ones((5, 7)), jnp.arange(5)[None])
