"""Every known mutation is caught in float64 (what only training shows: with dropout), and no correct pair is."""

import copy
import json
from functools import cache

import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue.fixtures import PARTS
from jax_attn.parity.cases import Case
from jax_attn.parity.mutations import _FAMILIES, MUTATIONS, Mutation, eps_mutation, inject, mutations_for
from jax_attn.parity.mutations.attention import heads_mutation
from jax_attn.parity.mutations.injection import wrap
from jax_attn.parity.mutations.training import TRAINING_MUTATIONS
from jax_attn.parity.power import power
from parity_tests.parity.mutations.mutation_pairs import PAIRS
from parity_tests.parity.pairs import CASES, MASK, flax_block, torch_block

FAMILIES = "attention", "rotary", "layers", "models", "losses", "precision"


# Beside others that show the same kind of mutation, and costly to compile.
SLOW = (
    "attention-latent",
    "attention-disentangled",
    "attention-disentangled-buckets",
    "attention-relative",
    "gated-delta-net",
    "attention-differential",
    "attention-performer-causal",
    "attention-grouped",
    "bert",
    "feed-forward-glu",
    "mixture-of-experts",
    "encoder-layer-scaled",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PAIRS]
)
def test_every_mutation_is_caught(name):
    pair = PAIRS[name]
    lanes = ["float64", "dropout"] if name in ("layer", "image layer") else ["float64"]
    report = power(pair.flax(), pair.torch(), pair.cases(), lanes, pair.mutations(), title=name)
    assert report.baseline.passed, report.baseline
    assert [trial.mutation for trial in report.trials if not trial.caught] == []
    assert all(trial.words for trial in report.trials)
    assert report.passed


def test_a_name_is_of_one_mutation():
    """The command line asks for mutations by it, those of trainings among them."""
    assert not MUTATIONS.keys() & TRAINING_MUTATIONS.keys()
    assert len(MUTATIONS) == sum(map(len, _FAMILIES))


def test_the_pairs_take_in_every_mutation():
    assert {mutation.name for pair in PAIRS.values() for mutation in pair.mutations()} == set(MUTATIONS)


@cache
def mutations_of(pair):
    return {mutation.name for mutation in PAIRS[pair].mutations()}


@pytest.mark.parametrize("name", MUTATIONS)
def test_injection_changes_a_copy_alone(name):
    pair = next(PAIRS[pair] for pair in PAIRS if name in mutations_of(pair))
    module = pair.torch()
    before, attributes = copy.deepcopy(module), [dict(vars(child)) for child in module.modules()]
    injected = inject(MUTATIONS[name], module)
    assert [type(child) for child in module.modules()] == [type(child) for child in before.modules()]
    assert [vars(child).keys() for child in module.modules()] == [a.keys() for a in attributes]
    assert injected.module.state_dict().keys() == module.state_dict().keys()
    for ours, theirs in zip(injected.module.state_dict().values(), module.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert MUTATIONS[name].summary
    assert MUTATIONS[name].family in FAMILIES


def test_a_module_that_is_not_ours():
    """Torch's own encoder layer, whose attention is fused."""
    layer = torch.nn.TransformerEncoderLayer(6, 2, 5, batch_first=True, activation="gelu").double().eval()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.ones(3, 3, dtype=torch.bool).triu(1)
    right = layer(x, src_mask=mask)
    names = {mutation.name for mutation in mutations_for(None, layer)}
    expected = {
        "gelu-form",
        "norm-placement",
        "eps-1e-12",
        "mask-inverted",
        "scale-missing",
        "weight-transposed",
    }
    assert expected <= names
    for name in sorted(expected):
        injected = inject(MUTATIONS[name], layer)
        assert not torch.equal(injected.module(x, src_mask=mask), right), name
        assert injected.hits.words, name
    assert torch.equal(layer(x, src_mask=mask), right)


# What `torch.nn.MultiheadAttention` has no place for, or only with padding.
ELSEWHERE = "heads-shared", "heads-doubled", "padding-", "causal-", "empty-row-zero", "empty-row-gradient"


@pytest.mark.parametrize(
    "mutation",
    [
        mutation
        for mutation in MUTATIONS.values()
        if mutation.family == "attention"
        and not mutation.name.startswith(ELSEWHERE)
        and not set(mutation.on) <= set(PARTS)
    ],
    ids=lambda mutation: mutation.name,
)
def test_attention_of_torch_itself_in_both_its_ways(mutation):
    """With `need_weights` it multiplies `(b n, t, h)`, without it calls the fused function."""
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(6, 2, batch_first=True).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    future[1] = mutation.name == "empty-row-mean"
    found = []
    for need_weights in (True, False):
        injected = inject(mutation, module)
        found.append(injected.module(x, x, x, attn_mask=future, need_weights=need_weights)[0])
        assert injected.hits.words
    torch.testing.assert_close(*found, rtol=0, atol=1e-14)
    right = module(x, x, x, attn_mask=future, need_weights=False)[0]
    if mutation.name not in ("mask-adds-1e4", "mask-adds-1e9"):  # of no effect in a row that sees a key
        assert not torch.allclose(found[0], right, rtol=0, atol=1e-12)


def test_two_mutations_that_undo_each_other():
    block, (x, mask) = torch_block(0.0).double(), map(torch.tensor, (CASES[0].args[0], MASK))
    for name in ("gelu-form", "swapped-qk", "weight-transposed", "mask-inverted"):
        once = inject(MUTATIONS[name], block).module
        twice = inject(MUTATIONS[name], once).module
        assert (once(x, mask) - block(x, mask)).abs().max() > 1e-6
        assert torch.allclose(twice(x, mask), block(x, mask), rtol=0, atol=1e-14)


def test_a_mutation_in_one_submodule():
    block, (x, mask) = torch_block(0.0).double(), map(torch.tensor, (CASES[0].args[0], MASK))
    injected = inject(MUTATIONS["weight-transposed"], block, "out")
    assert injected.module.q.forward.__func__ is torch.nn.Linear.forward
    assert not torch.equal(injected.module(x, mask), block(x, mask))
    assert injected.hits.words == [("the transpose", "the weight")]


def test_dropout_is_earlier_than_what_is_only_viewed_or_cast_after_it():
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.4)

        def forward(self, x):
            return self.drop(x.flatten(0, 1).softmax(-1, torch.float64).to(x.dtype).view(x.shape))

    x, mutation = torch.randn(2, 3, 5), MUTATIONS["dropout-earlier"]
    injected = inject(mutation, Module())
    torch.manual_seed(0)
    found = injected.module(x)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(torch.ones(2, 3, 5), 0.4).mul(x)
    assert torch.equal(found, dropped.softmax(-1, torch.float64).to(x.dtype))
    assert injected.hits.words == [("before softmax", "after softmax")]


def test_what_inputs_cannot_show():
    """Without a hidden key no mask matters, and one rounding more is no mutation."""
    everything = np.ones_like(MASK)
    mutations = [MUTATIONS["mask-missing"], MUTATIONS["gelu-form"], MUTATIONS["segments-ignored"]]
    cases = [Case("", (CASES[0].args[0], everything))]
    with pytest.raises(ValueError, match="'segments-ignored' does not fit TorchBlock"):
        power(flax_block(), torch_block(0.0), cases, ["float64"], mutations)
    report = power(flax_block(), torch_block(0.0), cases, ["float64"], mutations[:2], tolerance=1e-2)
    assert [trial.mutation for trial in report.unseen] == ["mask-missing"]
    assert [trial.mutation for trial in report.tolerated] == ["gelu-form"]
    assert not report.passed  # by the tolerance alone
    assert power(flax_block(), torch_block(0.0), cases, ["float64"], mutations[:2], tolerance=0.0).passed
    text = str(report)
    assert "could not have seen: mask-missing" in text
    assert "a tolerance of 0.01 lets through: gelu-form" in text
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [trial["verdict"] for trial in data["trials"]] == ["without effect", "caught"]
    assert data["tolerated"] == ["gelu-form"]


def test_a_tolerance_of_outputs_lets_every_mutation_of_gradients_through():
    report = power(
        flax_block(), torch_block(0.0), CASES[:1], ["float64"], [MUTATIONS["input-constant"]], tolerance=1e-3
    )
    (trial,) = report.trials
    assert trial.error > 1e-3 > trial.lanes["float64"].output
    assert report.tolerated == [trial]
    assert not report.passed


def test_a_mutation_whose_lane_is_not_run_is_missed():
    mutations = [MUTATIONS["gelu-form"], MUTATIONS["dropout-rate"]]
    report = power(flax_block(), torch_block(), CASES[:1], ["float64"], mutations)
    assert report.baseline.passed
    assert [trial.verdict for trial in report.trials] == ["caught", "not run"]
    assert [trial.mutation for trial in report.missed] == ["dropout-rate"]
    assert not report.passed


def test_a_pair_that_differs_anyway_catches_nothing():
    report = power(
        flax_block("tanh GELU"), torch_block(0.0), CASES[:1], ["float64"], [MUTATIONS["gelu-form"]]
    )
    assert not report.passed
    assert report.trials[0].verdict == "not run"
    with pytest.raises(AssertionError, match="without any mutation"):
        report.assert_passed()


def test_same_is_padding_of_one_where_the_sides_are_odd():
    mutation, image = MUTATIONS["padding-same"], np.random.default_rng(0).standard_normal((2, 2, 7, 9))
    assert not mutation.fits(torch.nn.Conv2d(2, 3, 3, padding=1))  # no stride
    conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    injected = inject(mutation, conv)
    assert torch.equal(injected.module(torch.tensor(image)), conv(torch.tensor(image)))
    assert not injected.hits.words
    even = torch.tensor(image[..., 1:, 1:])
    assert injected.module(even).shape == conv(even).shape
    assert not torch.allclose(injected.module(even), conv(even))
    assert injected.hits.words == [("SAME, which is [(0, 1), (0, 1)]", "padding=(1, 1)")]


def test_nothing_caught_is_no_pass():
    everything = [Case("", (CASES[0].args[0], np.ones_like(MASK)))]
    report = power(flax_block(), torch_block(0.0), everything, ["float64"], [MUTATIONS["mask-missing"]])
    assert (report.baseline.passed, report.passed) == (True, False)
    assert not power(flax_block(), torch_block(0.0), everything, ["float64"], []).passed


def test_a_mutation_that_makes_torch_raise_is_not_caught():
    """Nothing was compared: the inputs may as well not have seen it."""

    def broken(module, acts):
        def raises(module, forward, *args, **kwargs):
            acts.add("raises", "does not")
            raise RuntimeError("a mutation in the mutation")

        wrap(module, raises)

    mutation = Mutation("broken", "it raises", "", lambda module: True, broken, family="layers")
    report = power(flax_block(), torch_block(0.0), CASES[:1], ["float64"], [mutation])
    assert (report.passed, report.trials[0].verdict) == (False, "raised")
    assert "broken was not compared: torch raised RuntimeError: a mutation in the mutation" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": []}, "cases must be .* got none"),
        ({"cases": [(1, 2)]}, "cases must be .* got a tuple among them"),
        ({"tolerance": float("nan")}, "tolerance must be 0 or above, got nan"),
        ({"tolerance": -1.0}, "tolerance must be 0 or above, got -1.0"),
    ],
)
def test_what_power_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        power(flax_block(), torch_block(0.0), **{"cases": CASES, **options})


def test_an_eps_of_any_value():
    norm = torch.nn.LayerNorm(5)
    mutation = eps_mutation(3e-4)
    assert mutation.fits(norm)
    assert not eps_mutation(1e-5).fits(norm)
    ours = nnx.LayerNorm(5, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    case = Case("", (CASES[0].args[0][..., :5],))
    assert power(ours, norm, [case], ["float64"], [mutation]).trials[0].words == (("0.0003", "1e-05"),)


@pytest.mark.parametrize(("heads", "other"), [(2, 1), (6, 2), (6, 3)])
def test_fewer_heads_are_what_torch_makes_of_them(heads, other):
    torch.manual_seed(0)
    module, expected = (torch.nn.MultiheadAttention(6, n, batch_first=True).double() for n in (heads, other))
    expected.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    injected = inject(heads_mutation(other), module)
    found = injected.module(x, x, x, need_weights=False)[0]
    assert injected.hits.words == [(f"{other} heads", f"{heads} heads")]
    torch.testing.assert_close(found, expected(x, x, x)[0], rtol=0, atol=1e-14)
