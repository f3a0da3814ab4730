"""The second draw is another one: of inputs, of weights, and the same for both sides."""

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.diagnosing.second_draw import moved, redrawn
from jax_attn.weights.state_dict import state_dict
from parity_tests.parity.pairs import MASK, draw, flax_block, torch_block


def sides(flax, theirs, **options) -> Comparison:
    return Comparison(flax, theirs, **options).carry()[0]


def test_both_sides_get_the_same_other_weights():
    first = sides(flax_block(), torch_block())
    second = moved(first)
    ours, before, theirs = (dict(s) for s in (
        state_dict(second.flax), first.torch.named_parameters(), second.torch.named_parameters()
    ))  # fmt: skip
    assert ours.keys() == theirs.keys() == before.keys()
    for key, weight in theirs.items():
        assert np.allclose(ours[key], weight.detach().numpy(), rtol=1e-6)
        change = (weight - before[key]).abs()
        assert (change > 0).all(), key
        assert change.max() < 0.5 * max(1, before[key].abs().max()), key  # they stay what weights are


def test_sides_with_weights_of_their_own_keep_them():
    first = sides(flax_block(), torch_block(), weights=None)
    assert moved(first) is first


def test_every_array_is_another_of_its_kind():
    ids = np.random.default_rng(0).integers(0, 9, (2, 5))
    positions = np.arange(5)
    bias = np.where(MASK[0], 0.0, -1e9)
    case = Case("", (draw(3, 4), ids, positions, MASK), {"bias": bias, "scale": 2.0, "share": draw(4) ** 2})
    both, unmasked, floating = ([case.args, case.kwargs] for case in redrawn(case, 0))
    (x, other_ids, same, mask), named = both
    assert not np.isin(x, case.args[0]).any()
    assert (other_ids != ids).any()
    assert other_ids.min() >= ids.min()
    assert other_ids.max() <= ids.max()
    assert np.array_equal(same, positions)
    assert mask.dtype == bool
    assert (mask != MASK).any()
    assert set(np.unique(named["bias"])) == {0.0, -1e9}
    assert (named["bias"] != bias).any()
    assert named["scale"] == 2.0
    assert (named["share"] >= 0).all()
    assert (named["share"] != case.kwargs["share"]).any()
    assert np.array_equal(unmasked[0][3], MASK)
    assert (unmasked[0][1] != ids).any()
    assert np.array_equal(floating[0][1], ids)
    assert (floating[0][0] != case.args[0]).all()


def test_a_mask_is_no_mirror_of_the_first():
    causal = np.tril(np.ones((5, 5), bool))
    _, mask = next(redrawn(Case("", (draw(2, 5), causal)), 0)).args
    assert (mask != causal).any()
    assert all(row.any() for row in mask)
    upside_down = ~causal[::-1, ::-1]
    assert (mask != upside_down).any()
