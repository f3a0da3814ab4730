"""flex_attention against torch's eager one, which we did not write, and among its own implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.flex import AuxRequest, flex_attention
from parity_tests.functional.attention_contract import assert_equal

B, T, S, N, K, H, HV = 2, 37, 53, 6, 3, 5, 7
IMPLEMENTATIONS = ["reference", "blockwise"]

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


# Written once, for both: only arithmetic, comparisons and indexing.
def plain(table):
    return lambda score, b, h, q_idx, kv_idx: score


def distance(table):
    return lambda score, b, h, q_idx, kv_idx: score - abs(q_idx - kv_idx) * table[h, 0, 0]


def bias(table):
    return lambda score, b, h, q_idx, kv_idx: score * 2 + table[h, q_idx, kv_idx]


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def with_closed_rows(b, h, q_idx, kv_idx):
    return (kv_idx >= b + h) & (q_idx >= 3) & (q_idx - kv_idx < 20)


def in_torch(q, k, v, table, make_mod, mask_mod, d_output):
    """Output and log-sum-exp of torch's FlexAttention; gradients and largest score of the same formula.

    torch has no backward of FlexAttention on CPU, not even eager, so its autograd takes the formula itself.
    """
    q, k, v = (torch.tensor(x).transpose(1, 2).requires_grad_() for x in (q, k, v))
    table = torch.tensor(table).requires_grad_()
    block_mask = None
    if mask_mod is not None:
        block_mask = torch_flex.create_block_mask(mask_mod, B, N, T, S, device="cpu", BLOCK_SIZE=16)
    request = torch_flex.AuxRequest(lse=True)
    still = [x.detach() for x in (q, k, v)]
    options = {"enable_gqa": True, "return_aux": request}
    output, aux = torch_flex.flex_attention(*still, make_mod(table.detach()), block_mask, **options)

    place = torch.meshgrid(*(torch.arange(n) for n in (B, N, T, S)), indexing="ij")
    keys, values = (x.repeat_interleave(N // K, dim=1) for x in (k, v))
    scores = make_mod(table)(q @ keys.mT / H**0.5, *place)
    if mask_mod is not None:
        scores = scores.masked_fill(~mask_mod(*place), -1e300)
    weights = torch.softmax(scores, -1) * (scores > -1e300)
    expected = weights @ values
    assert torch.allclose(expected, output, atol=1e-12)
    (expected * torch.tensor(d_output).transpose(1, 2)).sum().backward()
    d_table = torch.zeros_like(table) if table.grad is None else table.grad
    results = [x.transpose(1, 2) for x in (output, q.grad, k.grad, v.grad)]
    max_scores = scores.masked_fill(scores == -1e300, -torch.inf).amax(-1)
    return [*results, d_table, aux.lse.mT, max_scores.mT]


FEW = [(distance, with_closed_rows, "blockwise")]
MORE = [
    (*mods, implementation)
    for mods in ((plain, causal), (distance, None), (bias, causal), (distance, with_closed_rows))
    for implementation in IMPLEMENTATIONS
    if (*mods, implementation) not in FEW
]


@pytest.mark.parametrize(
    ("make_mod", "mask_mod", "implementation"),
    [*FEW, *(pytest.param(*given, marks=pytest.mark.slow) for given in MORE)],
)
def test_same_as_torch(make_mod, mask_mod, implementation):
    q, k, v, table = draw(B, T, N, H), draw(B, S, K, H), draw(B, S, K, HV), draw(N, T, S)
    d_output = draw(B, T, N, HV)
    theirs = in_torch(q, k, v, table, make_mod, mask_mod, d_output)
    expected = dict(enumerate(x.detach().numpy() for x in theirs))

    ours_mask = None
    with jax.enable_x64(True):
        if mask_mod is not None:
            ours_mask = create_block_mask(mask_mod, B, N, T, S, BLOCK_SIZE=16)

        def loss(q, k, v, table):
            output, aux = flex_attention(
                q,
                k,
                v,
                make_mod(table),
                ours_mask,
                enable_gqa=True,
                return_aux=AuxRequest(lse=True, max_scores=True),
                implementation=implementation,
            )
            return (output * d_output).sum(), (output, aux)

        run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
        gradients, (output, aux) = run(*(jnp.asarray(x) for x in (q, k, v, table)))
        actual = dict(enumerate([output, *gradients, aux.lse, aux.max_scores]))
        assert_equal(actual, expected)


def mods(table):
    """Ready-made score mods that capture `table` (N, T, S)."""
    return {
        "alibi": score_mods.alibi(abs(table[:, 0, 0])),
        "softcap": score_mods.softcap(1.5),
        "learned": score_mods.learned_bias(table),
        "relative": score_mods.relative_bias(table[:, 0, :9]),
        "t5": score_mods.t5_bias(table[0, :32, :6]),
        "shaw": score_mods.shaw(table[:2].reshape(2, T, 1, S)[..., :5].repeat(N, 2), table[0, :7, :5]),
    }


def in_turn(*mods):
    """One score mod after the other."""

    def mod(score, *place):
        for each in mods:
            score = each(score, *place)
        return score

    return mod


ALONE = ("alibi", "softcap", "learned", "relative", "t5", "shaw")


@pytest.mark.parametrize("implementation", ["blockwise"])
@pytest.mark.parametrize(
    "names", [("relative", "shaw", "softcap"), *(pytest.param((x,), marks=pytest.mark.slow) for x in ALONE)]
)
def test_ready_made_score_mods_and_their_gradients(names, implementation):
    with jax.enable_x64(True):
        q, k, v, table = (
            jnp.asarray(draw(*s)) for s in [(B, T, N, H), (B, S, N, H), (B, S, N, HV), (N, T, S)]
        )
        block_mask = create_block_mask(mask_mods.sliding_window(20), None, None, T, S, BLOCK_SIZE=16)

        def run(implementation):
            def loss(q, k, v, table):
                made = mods(table)
                mod = in_turn(*(made[name] for name in names))
                return (flex_attention(q, k, v, mod, block_mask, implementation=implementation) ** 2).sum()

            return dict(enumerate(jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(q, k, v, table)))

        assert_equal(run(implementation), run("reference"))


@pytest.mark.slow
def test_gradient_of_a_captured_table_is_deterministic():
    q, table = jnp.asarray(draw(1, 300, 2, 4), jnp.float32), jnp.asarray(draw(2, 21), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(table):
        return flex_attention(q, q, q, score_mods.relative_bias(table), implementation="blockwise").sum()

    assert jnp.array_equal(gradient(table), gradient(table))


def test_under_vmap_over_a_captured_array():
    q, slopes = jnp.asarray(draw(1, 20, 2, 4), jnp.float32), jnp.array([[0.1, 0.2], [0.3, 0.4]])

    def attend(slope, implementation):
        return flex_attention(q, q, q, score_mods.alibi(slope), implementation=implementation)

    names = ("blockwise", "reference")
    both = [np.asarray(jax.jit(jax.vmap(lambda s, i=i: attend(s, i)))(slopes)) for i in names]
    assert np.allclose(*both, atol=1e-6)


class TestBadInputIsRefused:
    q = jnp.ones((2, 7, 4, 3))

    def test_bad_heads(self):
        with pytest.raises(ValueError, match="enable_gqa"):
            flex_attention(self.q, self.q[:, :, :2], self.q[:, :, :2])

    def test_bad_block_mask_of_another_length(self):
        block_mask = create_block_mask(causal, None, None, 8, 7)
        with pytest.raises(ValueError, match=r"block_mask must be for .*it is for \(1, 1, 8, 7\)"):
            flex_attention(self.q, self.q, self.q, block_mask=block_mask)

    @pytest.mark.parametrize(
        "score_mod",
        [
            lambda score, b, h, q_idx, kv_idx: jnp.ones(3) * score,
            lambda score, b, h, q_idx, kv_idx: score[0],
            lambda score, b, h, q_idx, kv_idx: q_idx >= kv_idx,
            lambda score, b, h: score,
        ],
    )
    def test_bad_score_mod(self, score_mod):
        with pytest.raises(
            ValueError, match=r"score_mod\(score, b, h, q_idx, kv_idx\) must map scalars to one"
        ):
            flex_attention(self.q, self.q, self.q, score_mod)

    def test_bad_implementation(self):
        with pytest.raises(ValueError, match="implementation must be one of"):
            flex_attention(self.q, self.q, self.q, implementation="fast")
        with pytest.raises(ValueError, match="TPU and GPU"):
            flex_attention(self.q, self.q, self.q, implementation="pallas")
