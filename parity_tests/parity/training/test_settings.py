"""What the steps of a training do not show of its optimizers is told."""

import jax
import optax
import pytest
import torch

import jax_attn.optim as ours
from parity_tests.parity.training.training_pairs import built, clip, flax_loss, torch_loss, train

ADAM = built(torch.optim.Adam, lr=0.01)
HUGE = (lambda *a: 1e6 * flax_loss(*a), lambda *a: 1e6 * torch_loss(*a))


def test_an_eps_beside_large_gradients():
    report = train(ours.adam(0.01, eps=1e-7), ADAM, loss=HUGE, steps=2)
    report.assert_passed()
    assert [str(finding) for finding in report.settings] == ["eps: flax 1e-07, torch 1e-08"]
    text = str(report)
    assert "settings differ, though these steps do not show it:\n  eps: flax 1e-07, torch 1e-08" in text
    assert text.index("settings differ") < text.index("lane ")
    assert report.to_json()["settings"] == ["eps: flax 1e-07, torch 1e-08"]


@pytest.mark.slow
def test_a_clipping_that_never_acts():
    report = train(ours.adam(0.01), ADAM, clip=(None, clip(1e3)[1]), steps=3)
    report.assert_passed()
    told = {entry.name: entry.reason for entry in report.left_out}
    assert told["clipping"] == "torch's clipping never acted in these 3 steps: not tested"
    assert [str(finding) for finding in report.settings] == ["max_norm: flax inf, torch 1000"]
    report = train(ours.adam(0.01), ADAM, clip=clip(1e3), steps=3)
    assert (report.passed, report.settings) == (True, [])
    assert "clipping" in {entry.name for entry in report.left_out}
    report = train(ours.adam(0.01), ADAM, clip=clip(1e-3), steps=3)
    assert "clipping" not in {entry.name for entry in report.left_out}


@pytest.mark.slow
def test_decay_of_weights_that_are_zero():
    """Biases that begin at zero show no decay in the first step."""
    module = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Dropout(0.25))
    module.append(torch.nn.Linear(5, 3))
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    report = train(ours.sgd(0.1, weight_decay=0.1), built(torch.optim.SGD, lr=0.1), torch=module, steps=1)
    report.assert_passed()
    assert [str(finding) for finding in report.settings] == ["weight_decay: flax 0.1, torch 0"]


def test_a_difference_that_shows_is_named_as_well():
    report = train(ours.adam(0.01, (0.9, 0.97)), ADAM, steps=2)
    with pytest.raises(AssertionError, match=r"settings that differ:\n  betas: flax \(0.9, 0.97\)"):
        report.assert_passed()


def test_chains_that_go_by_the_names_of_weights():
    """The settings cannot be told by themselves; that something differs is still seen."""

    def label(params):
        return jax.tree_util.tree_map_with_path(lambda path, leaf: path[0].key, params)

    for eps, expected in ((1e-8, []), (1e-7, ["unknown"])):
        parts = {"first": ours.adam(0.01), "last": ours.adam(0.01, eps=eps)}
        report = train(optax.partition(parts, label), ADAM, loss=HUGE, steps=2)
        report.assert_passed()
        assert [finding.setting for finding in report.settings] == expected


def test_a_schedule_that_ends_with_the_training():
    cycle = built(
        torch.optim.SGD, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 3), lr=0.1, momentum=0.9
    )
    tx = ours.sgd(ours.one_cycle_lr(0.1, 3), ours.one_cycle_momentum(3))
    report = train(tx, cycle, steps=3)
    report.assert_passed()
    assert report.settings == []
