import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch.nn.attention.flex_attention as torch_flex

from jax_attn.functional import mask_mods
from jax_attn.functional.block_mask import BlockMask, and_masks, create_block_mask, create_mask, or_masks
from jax_attn.functional.flex import flex_attention

LISTS = [
    f"{full}{axis}_{what}"
    for full in ("", "full_")
    for axis in ("kv", "q")
    for what in ("num_blocks", "indices")
]


def causal_window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 40 + 8 * h)


def assert_same_as_torch(ours: BlockMask, theirs: torch_flex.BlockMask) -> None:
    for name in LISTS:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert np.array_equal(mine, other.numpy()), name
    assert ours.shape == theirs.shape
    assert ours.sparsity() == pytest.approx(theirs.sparsity(), abs=1e-9)
    assert np.array_equal(ours.to_dense(), theirs.to_dense().numpy())
    pictures = [mask.to_string(limit=6).strip().splitlines() for mask in (ours, theirs)]
    for mine, other in zip(*pictures, strict=True):
        assert mine.rstrip() == other.rstrip()


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("lengths", [(128, 128), (131, 257), (300, 64)])
@pytest.mark.parametrize("axes", [(None, None), (2, 3)])
def test_same_as_torch(axes, lengths, separate):
    options = {"BLOCK_SIZE": (16, 32), "separate_full_blocks": separate}
    ours = create_block_mask(causal_window, *axes, *lengths, **options)
    theirs = torch_flex.create_block_mask(causal_window, *axes, *lengths, device="cpu", **options)
    assert_same_as_torch(ours, theirs)


def test_slices_are_the_same_as_torch_and_still_know_their_mask():
    ours = create_block_mask(causal_window, 2, 3, 128, 128, BLOCK_SIZE=16)
    theirs = torch_flex.create_block_mask(causal_window, 2, 3, 128, 128, device="cpu", BLOCK_SIZE=16)
    for index in (0, (0, 1), (slice(0, 2), slice(1, 2))):
        assert_same_as_torch(ours[index], theirs[index])
    part = ours[:, 1:, 2:5]
    assert part.shape == (2, 2, 48, 128)
    whole = create_mask(causal_window, 2, 3, 128, 128)
    assert jnp.array_equal(create_mask(part.mask_mod, *part.shape), whole[:, 1:, 32:80])


def test_from_kv_blocks_allows_what_it_lists():
    num, indices = jnp.array([[[1, 2]]]), jnp.array([[[[1, 0], [0, 1]]]])
    ours = BlockMask.from_kv_blocks(num, indices, BLOCK_SIZE=4)
    dense = create_mask(ours.mask_mod, *ours.shape)[0, 0]
    assert jnp.array_equal(dense, jnp.array([[0, 1], [1, 1]]).repeat(4, 0).repeat(4, 1))
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 1, 3)), jnp.float32)
    outputs = [flex_attention(q, q, q, block_mask=ours, implementation=i) for i in ("reference", "blockwise")]
    assert jnp.allclose(*outputs, atol=1e-6)


def test_is_a_pytree_whose_arrays_may_be_traced():
    q = jnp.asarray(np.random.default_rng(0).standard_normal((2, 50, 3, 4)), jnp.float32)
    block_mask = create_block_mask(causal_window, 2, 3, 50, 50, BLOCK_SIZE=16)
    attend = jax.jit(lambda q, m: flex_attention(q, q, q, block_mask=m, implementation="blockwise"))
    expected = flex_attention(q, q, q, block_mask=block_mask, implementation="reference")
    assert jnp.allclose(attend(q, block_mask), expected, atol=1e-6)


def test_partial_carries_its_arrays_through_jit():
    def same(ids, b, h, q_idx, kv_idx):
        return ids[q_idx] == ids[kv_idx]

    @jax.jit
    def attend(q, m):
        return flex_attention(q, q, q, block_mask=m)

    q = jnp.arange(24.0).reshape(1, 6, 2, 2)
    masks = [
        create_block_mask(jax.tree_util.Partial(same, jnp.array(ids)), None, None, 6, 6)
        for ids in ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5])
    ]
    first, second = (attend(q, m) for m in masks)
    assert attend._cache_size() == 1
    assert not jnp.allclose(first, second)
    assert jnp.allclose(second, q)


def test_block_mask_of_traced_ids():
    @jax.jit
    def attend(q, ids):
        block_mask = create_block_mask(mask_mods.document(ids), None, None, 50, 50, BLOCK_SIZE=16)
        return flex_attention(q, q, q, block_mask=block_mask, implementation="blockwise")

    ids = jnp.arange(50) // 7
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 50, 1, 4)), jnp.float32)
    known = create_block_mask(mask_mods.document(ids), None, None, 50, 50)
    expected = flex_attention(q, q, q, block_mask=known, implementation="reference")
    assert jnp.allclose(attend(q, ids), expected, atol=1e-6)


def dense(mask_mod, tokens=12):
    return np.asarray(create_mask(mask_mod, None, None, tokens, tokens)[0, 0])


ROW, COLUMN = np.arange(12)[:, None], np.arange(12)


@pytest.mark.parametrize(
    ("mask_mod", "expected"),
    [
        (mask_mods.causal, ROW >= COLUMN),
        (mask_mods.sliding_window(3), (ROW >= COLUMN) & (ROW - COLUMN <= 2)),
        (mask_mods.sliding_window(3, is_causal=False), abs(ROW - COLUMN) <= 2),
        (mask_mods.prefix_lm(4), (COLUMN < 4) | (ROW >= COLUMN)),
        (mask_mods.document(jnp.arange(12) // 5), ROW // 5 == COLUMN // 5),
        (mask_mods.padding(jnp.array([7])), (COLUMN < 7) & (ROW >= 0)),
        (mask_mods.dilated(3, 2), ((ROW - COLUMN) % 2 == 0) & (abs(ROW - COLUMN) <= 4)),
        (
            mask_mods.dilated(3, 2, is_causal=True),
            ((ROW - COLUMN) % 2 == 0) & (ROW >= COLUMN) & (ROW - COLUMN <= 4),
        ),
        (mask_mods.global_and_window(2, 1), (abs(ROW - COLUMN) <= 1) | (ROW < 1) | (COLUMN < 1)),
        (mask_mods.block_diagonal(5), ROW // 5 == COLUMN // 5),
        (
            and_masks(mask_mods.causal, mask_mods.block_diagonal(4)),
            (ROW >= COLUMN) & (ROW // 4 == COLUMN // 4),
        ),
        (
            or_masks(mask_mods.causal, mask_mods.block_diagonal(4)),
            (ROW >= COLUMN) | (ROW // 4 == COLUMN // 4),
        ),
    ],
)
def test_ready_made_masks(mask_mod, expected):
    assert np.array_equal(dense(mask_mod), expected)


def test_neighborhood_is_a_square_that_stays_inside():
    seen = dense(mask_mods.neighborhood_2d(3, 4, 3))
    assert (seen.sum(1) == 9).all()
    corner = seen[0].reshape(3, 4)
    assert corner[:3, :3].all()
    assert corner.sum() == 9


def test_bigbird_sees_window_global_and_random_blocks():
    seen = dense(mask_mods.bigbird(jax.random.key(0), 12, block=2, num_random=1))
    blocks = seen[::2, ::2]
    assert np.array_equal(seen, blocks.repeat(2, 0).repeat(2, 1))
    assert blocks[0].all()
    assert blocks[:, 0].all()
    rows = np.arange(6)
    assert blocks[abs(rows[:, None] - rows) <= 1].all()
    assert (blocks[2:].sum(1) <= 5).all()


class TestBadInputIsRefused:
    def test_sizes(self):
        with pytest.raises(ValueError, match=r"Q_LEN must be at least 1, got Q_LEN=0"):
            create_block_mask(mask_mods.causal, None, None, 0, 5)

    def test_bad_mask_mod(self):
        with pytest.raises(ValueError, match="must map scalars to one bool"):
            create_block_mask(lambda b, h, q_idx, kv_idx: q_idx - kv_idx, None, None, 5, 5)
        with pytest.raises(ValueError, match="must map scalars to one bool"):
            create_block_mask(lambda b, h, q_idx: True, None, None, 5, 5)

    def test_bad_half_of_the_full_lists(self):
        with pytest.raises(ValueError, match="must both be given"):
            BlockMask.from_kv_blocks(
                jnp.ones((1, 1, 1), int), jnp.zeros((1, 1, 1, 1), int), jnp.ones((1, 1, 1), int)
            )
