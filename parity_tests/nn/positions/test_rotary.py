from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.positions import head_cases
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.rotary import RotaryPositions
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestRotaryPositions(TwinContract):
    rows = (
        "positions-rotary",
        "positions-rotary-interleaved",
        "positions-rotary-linear",
        "positions-rotary-dynamic",
        "positions-rotary-yarn",
        "positions-rotary-llama3",
        "positions-rotary-longrope",
    )


def reference(model: str):
    """`(x, positions) -> x` of heads `(b, t, n, h)`, turned by what transformers has for a model."""
    import torch
    from transformers.models.cohere import modeling_cohere as cohere
    from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
    from transformers.models.gptj import modeling_gptj as gptj
    from transformers.models.llama import modeling_llama as llama

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = {"rope_theta": 500.0, "rope_type": "default"}
            sizes = dict(hidden_size=84, num_attention_heads=7, max_position_embeddings=4096)
            if model == "llama":
                self.rope = llama.LlamaRotaryEmbedding(llama.LlamaConfig(**sizes, rope_parameters=base))
            elif model == "cohere":
                self.rope = cohere.CohereRotaryEmbedding(cohere.CohereConfig(**sizes, rope_parameters=base))
            elif model == "gpt_neox":
                partial = {**base, "partial_rotary_factor": 0.5}
                self.rope = gpt_neox.GPTNeoXRotaryEmbedding(
                    gpt_neox.GPTNeoXConfig(**sizes, rope_parameters=partial)
                )

        def forward(self, x, positions):
            if model == "gptj":
                table = gptj.create_sinusoidal_positions(4096, 8)[positions].to(x.dtype)
                sin, cos = table.chunk(2, dim=-1)
                return torch.cat([gptj.apply_rotary_pos_emb(x[..., :8], sin, cos), x[..., 8:]], dim=-1)
            cos, sin = self.rope(x, positions)
            turn = {"llama": llama, "cohere": cohere, "gpt_neox": gpt_neox}[model].apply_rotary_pos_emb
            return turn(x, x, cos, sin, unsqueeze_dim=2)[0]

    return Turned()


@pytest.mark.parametrize(
    ("model", "options"),
    {
        "llama": dict(base=500.0),
        "cohere": dict(base=500.0, interleaved=True),
        "gpt_neox": dict(base=500.0, rotary_dim=6),
        "gptj": dict(rotary_dim=8, interleaved=True),
    }.items(),
)
def test_transformers_turns_them_alike(model, options):
    _, given, *_ = head_cases(12)
    assert_equals(RotaryPositions(12, **options), reference(model), [given])


@jax.enable_x64(True)
def test_neighbouring_pairs_are_halves_in_another_order():
    x, order = (
        draw(3, 5, 7, 14),
        np.concatenate([np.arange(0, 10, 2), np.arange(1, 10, 2), np.arange(10, 14)]),
    )
    of_neighbours = compiled(RotaryPositions(14, rotary_dim=10, interleaved=True))(x)
    of_halves = compiled(RotaryPositions(14, rotary_dim=10))(x[..., order])
    assert_same(of_neighbours[..., order], of_halves)


@pytest.mark.parametrize("interleaved", [False, True])
@jax.enable_x64(True)
def test_scores_depend_on_distances_alone(interleaved):
    module = RotaryPositions(14, rotary_dim=10, interleaved=interleaved)

    @compiled
    def scores(q, k, shift):
        turn = partial(module, positions=jnp.array([[0, 1, 5, 11, 2]]) + shift)
        return jnp.einsum("btnh,bsnh->bnts", turn(q), turn(k))

    q, k = draw(3, 5, 7, 14), draw(3, 5, 7, 14, seed=1)
    assert_same(scores(q, k, 1009), scores(q, k, 0))
    assert np.abs(scores(q, k, 0) - jnp.einsum("btnh,bsnh->bnts", q, k)).max() > 1


@jax.enable_x64(True)
def test_counted_positions_are_those_from_zero_on():
    module, x = RotaryPositions(22), draw(3, 5, 7, 22)
    assert_same(module(x), module(x, jnp.arange(5)[None]))
    assert_same(module(x)[:, 0], x[:, 0])


def test_bad_sizes_are_refused():
    for sizes, width in (
        ({"head_dim": 7}, 7),
        ({"head_dim": 8, "rotary_dim": 3}, 3),
        ({"head_dim": 8, "rotary_dim": 10}, 10),
    ):
        message = f"rotary_dim must be even and at most head_dim={sizes['head_dim']}, got rotary_dim={width}"
        with pytest.raises(ValueError, match=message):
            RotaryPositions(**sizes)
    with pytest.raises(ValueError, match="positions are for heads of width 8, the attention has 13"):
        MultiHeadAttention(26, 2, positions=RotaryPositions(8), rngs=nnx.Rngs(0))
