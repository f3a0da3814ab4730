import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch.nn.attention.flex_attention as torch_flex
from jax.sharding import AxisType

from jax_attn.functional import mask_mods
from jax_attn.functional.block_mask import BlockMask, and_masks, create_block_mask, create_mask, or_masks
from jax_attn.functional.flex import flex_attention
from jax_attn.parity import tolerances

LISTS = [
    f"{full}{axis}_{what}"
    for full in ("", "full_")
    for axis in ("kv", "q")
    for what in ("num_blocks", "indices")
]


def causal_window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 40 + 8 * h)


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 40)


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
    mask_mod = causal_window if axes[1] else window
    ours = create_block_mask(mask_mod, *axes, *lengths, **options)
    theirs = torch_flex.create_block_mask(mask_mod, *axes, *lengths, device="cpu", **options)
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


def attend(implementation):
    """Self-attention of `(q, block_mask)`, compiled as one."""
    return jax.jit(lambda q, m: flex_attention(q, q, q, block_mask=m, implementation=implementation))


def test_from_kv_blocks_allows_what_it_lists():
    num, indices = jnp.array([[[1, 2]]]), jnp.array([[[[1, 0], [0, 1]]]])
    ours = BlockMask.from_kv_blocks(num, indices, BLOCK_SIZE=4)
    dense = create_mask(ours.mask_mod, *ours.shape)[0, 0]
    assert jnp.array_equal(dense, jnp.array([[0, 1], [1, 1]]).repeat(4, 0).repeat(4, 1))
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 1, 3)), jnp.float32)
    assert jnp.allclose(attend("blockwise")(q, ours), attend("reference")(q, ours), atol=1e-6)


def test_is_a_pytree_whose_arrays_may_be_traced():
    q = jnp.asarray(np.random.default_rng(0).standard_normal((2, 50, 3, 4)), jnp.float32)
    block_mask = create_block_mask(causal_window, 2, 3, 50, 50, BLOCK_SIZE=16)
    expected = jax.jit(lambda q: attend("reference")(q, block_mask))(q)
    assert jnp.allclose(attend("blockwise")(q, block_mask), expected, atol=1e-6)


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
    def attend_documents(q, ids):
        block_mask = create_block_mask(mask_mods.document(ids), None, None, 50, 50, BLOCK_SIZE=16)
        return flex_attention(q, q, q, block_mask=block_mask, implementation="blockwise")

    ids = jnp.arange(50) // 7
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 50, 1, 4)), jnp.float32)
    known = create_block_mask(mask_mods.document(ids), None, None, 50, 50)
    expected = attend("reference")(q, known)
    assert jnp.allclose(attend_documents(q, ids), expected, atol=1e-6)


def dense(mask_mod, tokens=12):
    return np.asarray(create_mask(mask_mod, 1, 1, tokens, tokens)[0, 0])


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


IDS = np.arange(2 * 37).reshape(2, 37) // 9 % 4
READY_MADE = {
    "causal": mask_mods.causal,
    "window": mask_mods.sliding_window(7),
    "window on both sides": mask_mods.sliding_window(7, is_causal=False),
    "endless window": mask_mods.sliding_window(2**31),
    "prefix": mask_mods.prefix_lm(2**40),
    "prefixes": mask_mods.prefix_lm(np.array([3, 17])),
    "documents": mask_mods.document(IDS),
    "padding": mask_mods.padding(np.array([31, 5])),
    "dilated": mask_mods.dilated(2**20, 2**20),
    "global": mask_mods.global_and_window(3, 2),
    "some global": mask_mods.global_and_window(3, np.arange(37) % 11 == 0),
    "blocks": mask_mods.block_diagonal(2**31),
    "bigbird": mask_mods.bigbird(jax.random.key(0), 37, 5),
    "neighborhood": mask_mods.neighborhood_2d(5, 8, 3),
    "by head": lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < 3 + 5 * h),
}


def blocks_of(mask, size):
    """Empty, partial or full, worked out from the whole mask."""
    short = [(0, 0), (0, 0), *((0, -n % block) for n, block in zip(mask.shape[2:], size, strict=True))]
    padded = np.pad(mask, short)
    rows, columns = (n // block for n, block in zip(padded.shape[2:], size, strict=True))
    share = padded.reshape(*mask.shape[:2], rows, size[0], columns, size[1]).mean((3, 5))
    return np.where(share == 1, 2, np.where(share > 0, 1, 0))


def kinds_of(block_mask):
    kinds = 0
    for kind, name in ((1, ""), (2, "full_")):
        num, indices = (
            np.asarray(getattr(block_mask, f"{name}kv_{what}")) for what in ("num_blocks", "indices")
        )
        listed = np.arange(indices.shape[-1]) < num[..., None]
        chosen = np.zeros(indices.shape, int)
        np.put_along_axis(chosen, indices, kind * listed, -1)  # the lists are permutations
        kinds = kinds + chosen
    return kinds


@pytest.mark.parametrize(
    ("lengths", "size"),
    [
        ((37, 29), (5, 7)),
        pytest.param((37, 29), (16, 4), marks=pytest.mark.slow),
        pytest.param((23, 37), (5, 7), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", READY_MADE)
def test_lists_say_what_the_whole_mask_says(name, lengths, size):
    mask = create_mask(READY_MADE[name], 2, 3, *lengths)
    block_mask = create_block_mask(READY_MADE[name], 2, 3, *lengths, BLOCK_SIZE=size)
    assert np.array_equal(kinds_of(block_mask), blocks_of(mask, size))


@pytest.mark.parametrize(
    "index", [0, -1, (1, slice(1, 3)), (..., 1), (0, ..., slice(2, 4)), (1, [2, 0], [3, 1])]
)
def test_every_index_keeps_lists_and_mask_together(index):
    whole = create_block_mask(READY_MADE["by head"], 2, 3, 37, 29, BLOCK_SIZE=(8, 5))
    part = whole[index]
    assert np.array_equal(kinds_of(part), blocks_of(create_mask(part.mask_mod, *part.shape), (8, 5)))
    assert part.shape[3] == 29


def test_an_index_of_nothing_known_is_refused():
    block_mask = create_block_mask(causal_window, 2, 3, 37, 29, BLOCK_SIZE=8)
    for index, message in (
        ((0, 0, 0, 1), "up to 3 indices"),
        ((..., 0, ...), "at most one"),
        (None, "an index must be"),
        (True, "an index must be"),
        ((0, 1.0), "an index must be"),
        ((0, [0.5]), "an index must be"),
        (slice(2, 2), "leaves nothing"),
        ((0, 0, slice(None, None, -1)), "must stay the last"),
    ):
        with pytest.raises(ValueError, match=message):
            block_mask[index]
    with pytest.raises(IndexError):
        block_mask[2]


def documents_by_layer(layers):
    ids = jnp.stack([jnp.arange(29) // (3 + layer) for layer in range(layers)])
    return ids, [create_block_mask(mask_mods.document(x), None, None, 29, 29, BLOCK_SIZE=8) for x in ids]


@pytest.mark.parametrize(
    "made", [*(pytest.param(made, marks=pytest.mark.slow) for made in ("stacked", "vmapped")), "scanned"]
)
def test_a_stack_of_block_masks_is_scanned_over_layers(made):
    ids, block_masks = documents_by_layer(3)
    q = jnp.asarray(np.random.default_rng(0).standard_normal((2, 29, 3, 4)), jnp.float32)

    def make(ids):
        return create_block_mask(mask_mods.document(ids), None, None, 29, 29, BLOCK_SIZE=8)

    stack = {
        "stacked": lambda: jax.tree.map(lambda *lists: jnp.stack(lists), *block_masks),
        "vmapped": lambda: jax.vmap(make)(ids),
        "scanned": lambda: jax.lax.scan(lambda carry, ids: (carry, make(ids)), 0, ids)[1],
    }[made]()

    def layer(x, block_mask):
        return flex_attention(x, x, x, block_mask=block_mask, implementation="blockwise"), None

    expected = q
    reference = attend("reference")
    for block_mask in block_masks:
        expected = reference(expected, block_mask)
    run = jax.jit(jax.lax.scan, static_argnums=0)
    assert np.allclose(run(layer, q, stack)[0], expected, atol=tolerances.SAME_FLOAT32)
    with pytest.raises(ValueError, match="Take one block mask of it"):
        stack[0]


def test_masks_of_other_arrays_are_not_compiled_again():
    traces = []

    @jax.jit
    def attend(q, block_mask):
        traces.append(block_mask)
        return flex_attention(q, q, q, block_mask=block_mask)

    q = jnp.ones((1, 29, 2, 4))
    for block_mask in documents_by_layer(3)[1]:
        attend(q, block_mask)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_what_is_known_is_known_while_tracing(kind):
    found = []

    def trace(x):
        for mask_mod in (mask_mods.causal, mask_mods.document(np.arange(29) // 7)):
            found.append(create_block_mask(mask_mod, None, None, 29, 29, BLOCK_SIZE=8))
        return x

    mesh = jax.sharding.AbstractMesh((4,), ("x",), axis_types=(kind,))  # of devices that are not here
    with jax.sharding.use_abstract_mesh(mesh):
        jax.jit(trace).trace(jnp.ones(3))
    for block_mask in found:
        assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(block_mask)[:8])
    assert np.array_equal(found[0].kv_num_blocks[0, 0], [1, 1, 1, 4])


def test_long_masks_are_made_in_little_memory():
    # A matrix of one-hot rows would be (2048, 2048, 2048).
    num = np.full((1, 1, 2048), 2, np.int32)
    indices = np.tile(np.arange(2048, dtype=np.int32), (1, 1, 2048, 1))
    assert BlockMask.from_kv_blocks(num, indices, BLOCK_SIZE=1).sparsity() == 100 * (1 - 2 / 2048)


def test_strict_promotion():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for mask_mod in READY_MADE.values():
            create_block_mask(mask_mod, 2, 3, 37, 29, BLOCK_SIZE=(5, 7))


class TestBadInputIsRefused:
    def test_sizes(self):
        with pytest.raises(ValueError, match=r"Q_LEN must be at least 1, got Q_LEN=0"):
            create_block_mask(mask_mods.causal, None, None, 0, 5)

    @pytest.mark.parametrize("size", ["cuda", (8, 8, 8), 2.0, (8, None), True, jax.devices()[0]])
    def test_block_size(self, size):
        with pytest.raises(ValueError, match="BLOCK_SIZE must be an integer or a pair of integers"):
            create_block_mask(mask_mods.causal, None, None, 5, 5, size)

    @pytest.mark.parametrize("size", [0, -1, (8, 0)])
    def test_block_size_of_nothing(self, size):
        with pytest.raises(ValueError, match="BLOCK_SIZE must be at least 1"):
            create_block_mask(mask_mods.causal, None, None, 5, 5, size)

    def test_axes(self):
        with pytest.raises(ValueError, match="B must be at least 1, got B=0"):
            create_block_mask(mask_mods.causal, 0, None, 5, 5)
        with pytest.raises(ValueError, match="H must be an integer, got True"):
            create_mask(mask_mods.causal, None, True, 5, 5)

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
