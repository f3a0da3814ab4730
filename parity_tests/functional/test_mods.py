"""What a mask mod reads: a mask for all of an axis must not come from a mod that reads the axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional import BlockMask, create_block_mask, create_mask, flex_attention, mask_mods
from jax_attn.functional.mods import arguments_read, check_mask_mod
from jax_attn.functional.terms import hoist
from jax_attn.functional.tile import Place, over_tile

IDS = jnp.arange(2 * 11).reshape(2, 11) // 5
B, H, Q, KV = range(4)


def custom(b, q_idx):
    @jax.custom_jvp
    def relu(x, unused):
        return jnp.maximum(x, 0)

    relu.defjvp(lambda primals, tangents: (relu(*primals), tangents[0]))
    return relu(q_idx * 1.0, b * 1.0) > 0


def causal_beside(b, q_idx, kv_idx):
    return jax.jit(lambda b, q_idx, kv_idx: (q_idx >= kv_idx, b + 1))(b, q_idx, kv_idx)[0]


READS_B = {
    "indexing": lambda b, h, q, kv: IDS[b, q] == IDS[b, kv],
    "arithmetic": lambda b, h, q, kv: q + 3 * b >= kv,
    "comparison": lambda b, h, q, kv: (b == 0) | (q >= kv),
    "nested jit": lambda b, h, q, kv: jax.jit(lambda x: IDS[x, q] > 0)(b),
    "jit in jit": lambda b, h, q, kv: jax.jit(jax.jit(lambda x, q: (x > 0) & (q > 0)))(b, q),
    "choice of a branch": lambda b, h, q, kv: jax.lax.cond(b > 0, lambda: q >= kv, lambda: q < kv),
    "one branch": lambda b, h, q, kv: jax.lax.cond(q > kv, lambda b: b > 0, lambda b: q == kv, b),
    "switch": lambda b, h, q, kv: jax.lax.switch(b, [lambda: q >= kv, lambda: q < kv]),
    "loop": lambda b, h, q, kv: jax.lax.fori_loop(0, 3, lambda _, c: c + b, q) > kv,
    "length of a loop": lambda b, h, q, kv: jax.lax.fori_loop(0, b, lambda _, c: c + 1, q) > kv,
    "where": lambda b, h, q, kv: jnp.where(b > 0, q >= kv, q < kv),
    "custom derivative": lambda b, h, q, kv: jax.nn.relu(b * 1.0) + q > kv,
    "remat": lambda b, h, q, kv: jax.checkpoint(lambda x: x > q)(b),
    "lengths": mask_mods.padding(jnp.array([7, 9])),
    "documents": mask_mods.document(IDS),
    "prefixes": mask_mods.prefix_lm(np.array([3, 5])),
    "part of a combination": lambda b, h, q, kv: (
        mask_mods.causal(b, h, q, kv) & mask_mods.document(IDS)(b, h, q, kv)
    ),
}
LEAVES_B = {
    "unused": mask_mods.causal,
    "handed to a jit that passes over it": lambda b, h, q, kv: causal_beside(b, q, kv),
    "whole mod under jit": jax.jit(mask_mods.causal),
    "handed to both branches": lambda b, h, q, kv: jax.lax.cond(
        q > kv, lambda b: q > 1, lambda b: q == kv, b
    ),
    "computed and dropped": lambda b, h, q, kv: (IDS[b, q] > 0, q >= kv)[1],
    "its shape": lambda b, h, q, kv: jnp.ones_like(b, bool) & (q >= kv),
    "handed to a custom derivative": lambda b, h, q, kv: custom(b, q) & (q >= kv),
    "handed to remat": lambda b, h, q, kv: jax.checkpoint(lambda b, q: q >= kv)(b, q),
    "documents for all": mask_mods.document(jnp.arange(11) // 3),
}


@pytest.mark.parametrize("mask_mod", READS_B.values(), ids=READS_B)
def test_a_mask_for_all_batch_entries_must_not_read_them(mask_mod):
    assert B in arguments_read(check_mask_mod(mask_mod))
    for make in (create_block_mask, create_mask):
        with pytest.raises(ValueError, match=r"mask_mod reads b, but B=None .* pass B="):
            make(mask_mod, None, None, 11, 11)


@pytest.mark.parametrize("mask_mod", LEAVES_B.values(), ids=LEAVES_B)
def test_a_mask_that_does_not_read_them_may_be_for_all(mask_mod):
    assert B not in arguments_read(check_mask_mod(mask_mod))


OWN = {
    "documents": mask_mods.document(IDS),
    "lengths": mask_mods.padding(jnp.array([7, 9])),
    "rows, then positions": lambda b, h, q, kv: IDS[b][q] == IDS[b, kv],
}
NOT_OWN = {
    "of the entry before": lambda b, h, q, kv: IDS[b - 1, q] == IDS[b, kv],
    "of a chosen entry": lambda b, h, q, kv: (
        jax.lax.dynamic_slice(
            IDS, (jax.lax.select(q > 5, b * 0, b), kv), (1, 1), allow_negative_indices=False
        )[0, 0]
        > 1
    ),
    "of all entries": lambda b, h, q, kv: (IDS[b, q] > 1) & (jnp.max(IDS) > kv),
    "by another index": lambda b, h, q, kv: IDS[h, q] > IDS[b, kv],
    "under jit": lambda b, h, q, kv: jax.jit(lambda b: IDS[b, kv] > 1)(b),
}


REPEATED = ("lengths", "of all entries", "under jit")  # beside "documents" and "of a chosen entry"


@pytest.mark.parametrize(
    ("mask_mod", "alone"),
    [
        pytest.param(mod, name in OWN, marks=[pytest.mark.slow] * (name in REPEATED), id=name)
        for name, mod in (OWN | NOT_OWN).items()
    ],
)
def test_an_array_whose_rows_belong_to_the_entries_goes_along_with_them(mask_mod, alone):
    sizes, mod = (2, 2, 11, 11), hoist(mask_mod)
    assert any(mod.by_entry(2)) == alone
    assert not any(mod.by_entry(3))
    place = Place(*jnp.meshgrid(*map(jnp.arange, sizes), indexing="ij", sparse=True))
    whole = jnp.broadcast_to(over_tile(mod, place), sizes)
    assert jnp.array_equal(whole, create_mask(mask_mod, *sizes))

    @jax.jit
    def make(arrays):
        return create_block_mask(mod.with_captured(arrays), *sizes, BLOCK_SIZE=4)

    known = create_block_mask(mask_mod, *sizes, BLOCK_SIZE=4)
    lists = zip(jax.tree.leaves(known)[:8], jax.tree.leaves(make(mod.captured))[:8], strict=True)
    assert all(jnp.array_equal(*both) for both in lists)


def test_heads_likewise():
    def by_head(b, h, q_idx, kv_idx):
        return q_idx - kv_idx < 3 + h

    assert arguments_read(check_mask_mod(by_head)) == {H, Q, KV}
    with pytest.raises(ValueError, match=r"mask_mod reads h, but H=None .* pass H="):
        create_block_mask(by_head, None, None, 11, 11)
    assert create_block_mask(by_head, None, 3, 11, 11).shape == (1, 3, 11, 11)


@pytest.mark.parametrize("implementation", ["reference", "xla", "blockwise"])
def test_a_block_mask_of_one_entry_is_not_for_more(implementation):
    q, k = jnp.ones((2, 11, 6, 4)), jnp.ones((2, 11, 3, 4))

    def attend(block_mask):
        options = {"enable_gqa": True, "implementation": implementation}
        return jax.eval_shape(lambda q, k: flex_attention(q, k, k, block_mask=block_mask, **options), q, k)

    documents = mask_mods.document(IDS)
    with pytest.raises(ValueError, match="reads b, but its block_mask has B=1 for 2 batch entries"):
        attend(create_block_mask(documents, 1, None, 11, 11))
    with pytest.raises(ValueError, match="reads h, but its block_mask has H=1 for 6 query heads"):
        attend(create_block_mask(lambda b, h, q, kv: q - kv < h, None, 1, 11, 11))
    lists = jnp.ones((1, 1, 1), jnp.int32), jnp.zeros((1, 1, 1, 1), jnp.int32)
    with pytest.raises(ValueError, match="reads b"):
        attend(BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=11, mask_mod=documents))
    attend(create_block_mask(documents, 2, None, 11, 11))
    attend(create_block_mask(documents, 2, None, 11, 11)[0])  # one entry's mask, for all
    attend(create_block_mask(mask_mods.causal, 1, 1, 11, 11))
