import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.nn.attention.disentangled import DisentangledAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_nothing_to_attend_to_gives,
    assert_same,
    compiled,
    draw,
)
from parity_tests.references import assert_equals


class TestDisentangledAttention(TwinContract):
    rows = ("attention-disentangled", "attention-disentangled-buckets")
    rounds = False
    elsewhere = ("attention-disentangled-buckets",)  # transformers below

    def test_takes_an_empty_batch(self, row_of_each_class: str):
        """The table belongs to no batch."""
        x, table = map(jnp.asarray, CATALOGUE[row_of_each_class].cases()[0].args)
        output = nnx.jit(lambda module, *args: module(*args))(
            CATALOGUE[row_of_each_class].flax(), x[:0], table
        )
        assert output.shape == x[:0].shape


def attention(**options) -> DisentangledAttention:
    given = {"embed_dim": 26, "num_heads": 2, "max_relative_positions": 5, **options}
    return DisentangledAttention(**given, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))


KEYS = [
    (r"^(q|k|v)_proj", r"attention.\1_proj"),
    (r"^pos_k_proj", "attention.pos_key_proj"),
    (r"^pos_q_proj", "attention.pos_query_proj"),
    (r"\.q_proj", ".query_proj"),
    (r"\.k_proj", ".key_proj"),
    (r"\.v_proj", ".value_proj"),
]


@pytest.mark.parametrize(
    ("buckets", "farthest", "kinds", "share"),
    [
        (6, 11, ("c2p", "p2c"), True),
        (-1, 5, ("c2p", "p2c"), False),
        pytest.param(6, 9, ("p2c",), False, marks=pytest.mark.slow),
        pytest.param(-1, 5, ("c2p",), True, marks=pytest.mark.slow),
    ],
)
def test_transformers_deberta_v2_computes_the_same(buckets, farthest, kinds, share):
    """On sequences longer than what is told apart, with padding."""
    import torch
    from transformers.models.deberta_v2.configuration_deberta_v2 import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = DebertaV2Config(
                hidden_size=26,
                num_attention_heads=2,
                relative_attention=True,
                max_relative_positions=farthest,
                position_buckets=buckets,
                pos_att_type=list(kinds),
                share_att_key=share,
            )
            self.attention = DisentangledSelfAttention(config)
            self.out_proj = torch.nn.Linear(26, 26)

        def forward(self, x, relative, mask):
            heads, _ = self.attention(x, mask[:, None, None, :], rel_embeddings=relative)
            return self.out_proj(heads)

    ours = attention(
        max_relative_positions=farthest,
        position_buckets=None if buckets < 0 else buckets,
        pos_att_type=kinds,
        share_att_key=share,
    )
    real = np.arange(13) < np.array([[13], [7]])
    table = np.asarray(draw(2 * ours.span, 26, seed=1))
    cases = [Case("padding", (np.asarray(draw(2, 13, 26)), table, real))]
    assert_equals(ours, Theirs(), cases, names=KEYS)


@jax.enable_x64(True)
def test_each_kind_adds_its_own_scores_and_their_number_scales_them():
    """The definition, pair by pair; and without kinds it is scaled dot-product attention."""
    x, table = draw(1, 7, 26), draw(10, 26, seed=1)
    both = attention()
    weights = compiled(lambda x, table: both(x, table, return_weights=True)[1])(x, table)
    split = lambda projection, rows: np.asarray(projection(rows)).reshape(-1, 2, 13)  # noqa: E731
    q, k = split(both.q_proj, x[0]), split(both.k_proj, x[0])
    of_keys, of_queries = split(both.pos_k_proj, table), split(both.pos_q_proj, table)
    scores = np.zeros((2, 7, 7))
    for head, i, j in np.ndindex(scores.shape):
        row = min(max(i - j + 5, 0), 9)
        pair = q[i, head] @ k[j, head] + q[i, head] @ of_keys[row, head] + k[j, head] @ of_queries[row, head]
        scores[head, i, j] = pair / np.sqrt(13 * 3)
    exponentials = np.exp(scores)
    assert_same(weights[0], exponentials / exponentials.sum(axis=-1, keepdims=True))

    plain = attention(pos_att_type=())
    expected = np.einsum("ind,jnd->nij", *(split(p, x[0]) for p in (plain.q_proj, plain.k_proj))) / 13**0.5
    weights = compiled(lambda x: plain(x, return_weights=True)[1])(x)
    assert_same(weights[0], np.exp(expected) / np.exp(expected).sum(axis=-1, keepdims=True))


@jax.enable_x64(True)
def test_only_distances_count_and_weights_are_captured():
    module, x, table = attention(), draw(2, 5, 26), draw(10, 26, seed=1)
    graphdef, state = nnx.split(module)

    @compiled
    def run(x, positions):
        merged = nnx.merge(graphdef, state)
        return capture_attention_weights(merged)(x, table, positions=positions), module(x, table)

    (output, captured), counted = run(x, 1009 + jnp.broadcast_to(jnp.arange(5), (2, 5)))
    assert_same(output, counted)
    assert captured[""].shape == (2, 2, 5, 5)
    (other, _), _ = run(x, jnp.broadcast_to(2 * jnp.arange(5), (2, 5)))
    assert np.abs(other - output).max() > 1e-3


@jax.enable_x64(True)
def test_where_nothing_may_be_attended_to_only_the_bias_is_left():
    module, table = attention(), draw(10, 26, seed=1)
    assert_nothing_to_attend_to_gives(
        lambda x, mask=None: module(x, table, mask), draw(3, 5, 26), module.out_proj.bias[...]
    )


def test_bad_arguments_are_refused():
    for options, message in (
        ({"num_heads": 3}, "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"),
        ({"max_relative_positions": 0}, "max_relative_positions must be at least 1"),
        ({"position_buckets": 5}, "position_buckets must be even and at least 4, got position_buckets=5"),
        ({"position_buckets": 8}, r"max_relative_positions must be above position_buckets / 2 \+ 1 = 5"),
        ({"pos_att_type": ("c2p", "p2p")}, "pos_att_type must be one of c2p, p2c, got 'p2p'"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(**options)


def test_bad_input_is_refused():
    module, x, table = attention(), jnp.ones((2, 5, 26)), jnp.ones((10, 26))
    for call, message in (
        (lambda: module(x[..., :25], table), r"x must have shape \(t, 26\) or \(b, t, 26\)"),
        (lambda: module(x), r"relative must have shape \(10, 26\), got None"),
        (lambda: module(x, table[:9]), r"relative must have shape \(10, 26\), got \(9, 26\)"),
        (lambda: attention(pos_att_type=())(x, table), "relative must be None where pos_att_type is empty"),
        (lambda: module(x, table, jnp.ones((2, 4), bool)), "mask must have one of the shapes"),
        (
            lambda: module.init_cache(2, 11),
            "disentangled attention has no cache: a token sees those after it",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
