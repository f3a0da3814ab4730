import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.positions.attention_positions import token_positions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions, sinusoids
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same
from parity_tests.references import float32_lifted


class TestSinusoidalPositions(TwinContract):
    rows = ("positions-sinusoidal", "positions-sinusoidal-halves")


def test_the_formula_of_the_paper():
    table = sinusoids(5, 7)
    for position, column in ((0, 0), (0, 1), (3, 0), (3, 1), (4, 4), (4, 5), (2, 6)):
        angle = position / 10000 ** (2 * (column // 2) / 7)
        expected = math.cos(angle) if column % 2 else math.sin(angle)
        assert table[position, column] == pytest.approx(expected, abs=1e-15)


@jax.enable_x64(True)
def test_halves_are_those_of_whisper_and_fairseq():
    import torch
    from transformers.models.speech_to_text.modeling_speech_to_text import (
        Speech2TextSinusoidalPositionalEmbedding,
    )
    from transformers.models.whisper.modeling_whisper import sinusoids as whispers

    run = nnx.jit(SinusoidalPositions(61, 14, "halves"))
    ids = torch.tensor([[5, 6, 7, 8, 9], [1, 1, 5, 6, 7], [5, 6, 1, 1, 1]])
    with float32_lifted():
        of_whisper = whispers(61, 14)
        of_fairseq = Speech2TextSinusoidalPositionalEmbedding(61, 14, padding_idx=1)(ids)
    assert_same(run(jnp.zeros((61, 14))), of_whisper)
    # fairseq counts from padding_idx + 1 on, and adds nothing to padding.
    mask = jnp.asarray(ids != 1)
    ours = run(jnp.zeros((3, 5, 14)), jnp.where(mask, token_positions(mask) + 2, -1))
    assert_same(ours, of_fairseq)
    assert_same(ours[~mask], jnp.zeros((5, 14)))


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_given_positions_pick_rows(layout):
    module = SinusoidalPositions(11, 8, layout)
    counted = module(jnp.zeros((11, 8)))
    at = jnp.array([[4, 10, -1], [0, 1, 2]])
    expected = jnp.where((at < 0)[..., None], 0, counted[at])
    np.testing.assert_array_equal(module(jnp.zeros((2, 3, 8)), at), expected)
    assert np.isnan(module(jnp.zeros((1, 1, 8)), jnp.array([[11]]))).all()  # past the table


def test_a_shift_is_a_rotation_that_does_not_depend_on_the_position():
    table, shift = sinusoids(61, 8), 13
    waves = table.reshape(61, 4, 2)  # sine and cosine of each frequency
    angle = shift / 10000 ** (np.arange(0, 8, 2) / 8)
    sine, cosine = waves[:-shift, :, 0], waves[:-shift, :, 1]
    moved = np.stack(
        [sine * np.cos(angle) + cosine * np.sin(angle), cosine * np.cos(angle) - sine * np.sin(angle)],
        axis=-1,
    )
    np.testing.assert_allclose(waves[shift:], moved, atol=1e-14)


def test_there_is_nothing_to_learn_or_to_save():
    import torch

    from torch_ref.nn.positions.sinusoidal import SinusoidalPositions as Twin

    assert not jax.tree.leaves(nnx.state(SinusoidalPositions(11, 7)))
    twin = Twin(11, 7)
    assert not twin.state_dict()
    assert twin.double().table.dtype == torch.float64


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_table_is_rounded_once(dtype):
    added = SinusoidalPositions(509, 7)(jnp.zeros((509, 7), dtype))
    assert added.dtype == dtype
    np.testing.assert_array_equal(added, jnp.asarray(sinusoids(509, 7), dtype))


def test_bad_input_is_refused():
    module = SinusoidalPositions(11, 7)
    with pytest.raises(ValueError, match="the number of tokens must be at most num_embeddings=11, got 12"):
        module(jnp.ones((3, 12, 7)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 6\)"):
        module(jnp.ones((5, 6)))
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, got embedding_dim=0"):
        SinusoidalPositions(11, 0)
    with pytest.raises(ValueError, match="layout must be one of interleaved, halves, got 'quarters'"):
        SinusoidalPositions(11, 8, "quarters")
    for width in (2, 7):
        message = f"embedding_dim must be even and at least 4 in halves, got embedding_dim={width}"
        with pytest.raises(ValueError, match=message):
            SinusoidalPositions(11, width, "halves")
