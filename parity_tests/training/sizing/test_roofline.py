"""Seconds and bytes by arithmetic."""

import math

import jax
import pytest

from jax_attn.training.sizing.chips import CHIPS, chip_of, this_cpu
from jax_attn.training.sizing.collectives import Collective
from jax_attn.training.sizing.roofline import Roofline, bandwidth, compute_seconds, interconnect_seconds

V5E, V5P, H100 = CHIPS["v5e"], CHIPS["v5p"], CHIPS["h100"]


def test_products_take_their_flops_by_the_peak():
    assert compute_seconds(197 * 10**12, 0, 1, V5E) == pytest.approx(1)
    assert compute_seconds(2 * 989 * 10**12, 989 * 10**12, 8, H100) == pytest.approx((1 + 2) / 8)


@pytest.mark.parametrize(
    ("chip", "shape", "group", "links"),
    [
        (V5E, (16, 16), 16, 2),  # a ring: both ways
        (V5E, (16, 16), 256, 4),
        (V5E, (4, 4), 4, 1),  # a line: v5e closes rings of 16 alone
        (V5P, (4, 4, 4), 64, 6),
        (V5P, (4, 4, 4), 4, 2),
        (V5P, (2, 2, 1), 4, 2),
    ],
)
def test_a_group_sends_over_the_axes_that_it_spans(chip, shape, group, links):
    assert bandwidth(chip, shape, group) == links * chip.link


def test_beyond_a_machine_there_is_the_network():
    assert bandwidth(H100, (64,), 8) == H100.link
    assert bandwidth(H100, (64,), 64) == H100.network


def test_collectives_take_turns():
    found = [Collective("all-gather", 16, 1, 0, 100e9), Collective("all-reduce", 256, 1, 0, 200e9)]
    assert interconnect_seconds(found, V5E, (16, 16)) == pytest.approx(1 + 1)
    assert interconnect_seconds([], this_cpu(64, 0.01), (8,)) == 0
    assert interconnect_seconds(found, this_cpu(64, 0.01), (8,)) is None


def test_the_longest_holds_a_step_up():
    roofline = Roofline(2.0, 3.0, None)
    assert (roofline.seconds, roofline.bound) == (3.0, "memory")
    assert [*roofline.parts] == ["memory", "compute"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_chip_is_known_by_what_jax_calls_it(kind, name):
    assert chip_of(kind).name == name


def test_what_is_not_known_is_none():
    assert chip_of("Abacus 3000") is None


def test_this_cpu_is_measured():
    chip = this_cpu(64, 0.01)
    assert 1e6 < chip.float32 < 1e15
    assert math.isfinite(chip.peak("bfloat16"))
    assert chip_of(jax.devices("cpu")[0]).name == "cpu"
