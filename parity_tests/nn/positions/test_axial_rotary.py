import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.positions.axial_rotary import AxialRotaryPositions
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestAxialRotaryPositions(TwinContract):
    rows = ("positions-axial-rotary",)


def test_qwen2_vl_turns_them_alike():
    import torch
    from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = Qwen2VLVisionConfig(embed_dim=84, num_heads=7, hidden_size=84)
            config.num_attention_heads = 7
            config.rope_parameters = {"rope_type": "axial", "rope_theta": 500.0}
            self.rope = qwen.Qwen2VLVisionRotaryEmbedding(config)

        def forward(self, x):
            rows, columns = torch.meshgrid(torch.arange(5), torch.arange(3), indexing="ij")
            cos, sin = self.rope(x, torch.stack([rows.flatten(), columns.flatten()], dim=1))
            return torch.stack([qwen.apply_rotary_pos_emb_vision(e, e, cos, sin)[0] for e in x])

    x = np.random.default_rng(0).standard_normal((2, 15, 7, 12))
    assert_equals(AxialRotaryPositions(12, 3, 500.0), Turned(), [Case("15 patches", (x,))])


@jax.enable_x64(True)
def test_scores_depend_on_distances_along_both_axes():
    module = AxialRotaryPositions(12, width=16)

    @compiled
    def scores(q, k, down, right):
        positions = jnp.array([[0, 1, 16, 18, 35]]) + 16 * down + right
        return jnp.einsum("btnh,bsnh->bnts", module(q, positions), module(k, positions))

    q, k = draw(3, 5, 7, 12), draw(3, 5, 7, 12, seed=1)
    assert_same(scores(q, k, 11, 7), scores(q, k, 0, 0))
    assert_same(module(q, jnp.full((1, 5), -1)), q)


def test_bad_sizes_are_refused():
    for sizes, message in {
        (6, 3): "head_dim must be a multiple of 4, two features an axis, got head_dim=6",
        (8, 0): "width must be at least 1, got width=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            AxialRotaryPositions(*sizes)
    with pytest.raises(ValueError, match="positions are for heads of width 8, the attention has 13"):
        MultiHeadAttention(26, 2, positions=AxialRotaryPositions(8, 3), rngs=nnx.Rngs(0))
