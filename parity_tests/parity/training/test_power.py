"""Mutations of optimizers, schedules and clipping are caught, each for what it is."""

import numpy as np
import pytest
import torch

from jax_attn.cli.training_fixtures import TRAINING_FIXTURES, Net, torch_net, try_training_fixture
from jax_attn.optim import sgd
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.training import (
    TRAINING_MUTATIONS,
    TorchTraining,
    training_mutations_for,
)
from jax_attn.parity.training.power import training_power

BATCHES = [(np.random.default_rng(seed).standard_normal((4, 5)),) for seed in range(2)]


def loss(model, x):
    return (model(x) ** 2).mean()


# Each has a mutation of one number of its own, as the optimizers before it.
REPEATED = ("adagrad", "adam-cosine", "adamw", "nadam", "sgd-linear-lr")


def first_on(fixture):
    """The mutations of which the fixture is the first."""
    return [name for name, mutation in TRAINING_MUTATIONS.items() if fixture == mutation.on[0]]


def others_on(fixture):
    """The mutations that have another fixture before this one."""
    return [name for name, mutation in TRAINING_MUTATIONS.items() if fixture in mutation.on[1:]]


@pytest.mark.parametrize(
    ("fixture", "mutations"),
    [
        *(
            pytest.param(fixture, first_on(fixture), marks=[pytest.mark.slow] * (fixture in REPEATED))
            for fixture in TRAINING_FIXTURES
            if first_on(fixture)
        ),
        *(
            pytest.param(fixture, others_on(fixture), marks=pytest.mark.slow)
            for fixture in TRAINING_FIXTURES
            if others_on(fixture)
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_every_mutation_is_caught(fixture, mutations):
    report = try_training_fixture(fixture, mutations)
    report.assert_passed()
    assert [trial.mutation for trial in report.caught] == mutations


def test_every_mutation_has_a_fixture():
    on = {fixture for mutation in TRAINING_MUTATIONS.values() for fixture in mutation.on}
    assert on == set(TRAINING_FIXTURES)
    assert all(mutation.on for mutation in TRAINING_MUTATIONS.values())


@pytest.mark.slow
def test_a_pair_of_ones_own():
    """Those that fit are tried; clipping that never acts shows none of its mutations."""
    plain = {"lr": 1e-2, "weight_decay": 0.1}
    report = training_power(
        Net(),
        torch_net(),
        BATCHES,
        (loss, loss),
        (sgd(**plain), lambda parameters: torch.optim.SGD(parameters, **plain)),
        clip=(None, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 1e6)),
        steps=2,
    )
    unseen = {trial.mutation: trial.verdict for trial in report.unseen}
    assert unseen == dict.fromkeys(("clip-without-eps", "clip-each", "clip-missing"), "not reached")
    assert {trial.mutation for trial in report.caught} >= {"decay-missing", "parameter-frozen"}
    assert report.passed
    assert "these inputs could not have seen: clip-without-eps" in str(report)


def test_a_pair_that_differs_is_not_tried():
    pair = sgd(0.1), lambda parameters: torch.optim.SGD(parameters, 0.2)
    report = training_power(Net(), torch_net(), BATCHES, (loss, loss), pair, steps=2)
    assert (report.passed, report.trials) == (False, [])
    assert "differs without any mutation" in str(report)


def test_an_optimizer_that_is_there_already():
    net = torch_net()
    made = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"optimizer\[1\] must be a function .* got a SGD"):
        training_power(Net(), net, BATCHES, (loss, loss), (sgd(0.1), made))


def test_a_mutation_of_no_effect_is_not_caught():
    def nothing(training, acts):
        acts.add("nothing", "nothing")

    mutation = Mutation(
        "nothing", "it changes nothing", "", lambda training: True, nothing, family="optimizers"
    )
    pair = sgd(0.1), lambda parameters: torch.optim.SGD(parameters, 0.1)
    report = training_power(Net(), torch_net(), BATCHES, (loss, loss), pair, steps=2, mutations=[mutation])
    assert report.baseline.passed
    assert (report.trials[0].verdict, report.passed) == ("without effect", False)
    assert report.trials[0].error < 1e-12


def test_which_mutations_fit():
    parameter = torch.nn.Parameter(torch.ones(2))
    training = TorchTraining.of(torch.optim.SGD([parameter], 0.1, momentum=0.9), None)
    names = {mutation.name for mutation in training_mutations_for(training)}
    assert names == set()  # no decay, no dampening, no Nesterov, no schedule, and a single parameter
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, 3)
    names = {
        mutation.name for mutation in training_mutations_for(TorchTraining(training.optimizer, scheduler))
    }
    assert names == {"schedule-late", "schedule-early", "schedule-stays-low"}
