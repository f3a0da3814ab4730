"""Settings that differ between modules, and those that only look as if they did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.parity.diagnosing.lint_modules import lint_pair
from parity_tests.parity.mutations.mutation_pairs import PAIRS


def conv(**options):
    return nnx.Conv(4, 4, rngs=nnx.Rngs(0), **{"kernel_size": (3,), **options})


def torch_conv(**options):
    return torch.nn.Conv1d(4, 4, **{"kernel_size": 3, **options})


class Holder(nnx.Module):
    """Something with these attributes."""

    def __init__(self, **held):
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        for name, value in held.items():
            setattr(self, name, value)

    def __call__(self, x):
        return self.linear(x)


class TorchHolder(torch.nn.Module):
    def __init__(self, **held):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.linear(x)


SAME = {
    "SAME": (conv(padding="SAME"), torch_conv(padding=1)),
    "SAME, dilated": (
        conv(padding="SAME", kernel_dilation=2),
        torch_conv(padding=2, dilation=2),
    ),
    "SAME, even kernel": (
        conv(padding="SAME", kernel_size=(4,)),
        torch_conv(padding="same", kernel_size=4),
    ),
    "circular": (conv(padding="CIRCULAR"), torch_conv(padding=1, padding_mode="circular")),
    "groups": (conv(padding=1, feature_group_count=2), torch_conv(padding=1, groups=2)),
    "transposed": (
        nnx.ConvTranspose(4, 4, (3,), rngs=nnx.Rngs(0)),
        torch.nn.ConvTranspose1d(4, 4, 3, padding=1),
    ),
    "Mish": (Holder(act=jax.nn.mish), TorchHolder(act=torch.nn.Mish())),
    "no activation": (Holder(act=None), TorchHolder(act=torch.nn.Identity())),
    "where it runs": (Holder(device="cpu"), TorchHolder(device="cuda")),
    "NumPy's number": (Holder(num_heads=np.int64(2)), TorchHolder(num_heads=2)),
}

RNGS = nnx.Rngs(0)
FINE = {"epsilon": 1e-5, "rngs": RNGS}
TWO_PASSES = {**FINE, "use_fast_variance": False}
ATTENTION = {"decode": False, "broadcast_dropout": False, "rngs": RNGS}
SAME |= {
    "Linear": (nnx.Linear(3, 5, dtype=jnp.bfloat16, rngs=RNGS), torch.nn.Linear(3, 5)),
    "LinearGeneral, apart": (nnx.LinearGeneral(11, (2, 7), rngs=RNGS), torch.nn.Linear(11, 14)),
    "LinearGeneral, together": (
        nnx.LinearGeneral((2, 7), 11, axis=(-2, -1), rngs=RNGS),
        torch.nn.Linear(14, 11),
    ),
    "Einsum": (nnx.Einsum("bd,dh->bh", (3, 5), (5,), rngs=RNGS), torch.nn.Linear(3, 5)),
    "kernel of 1": (nnx.Conv(3, 5, (1, 1), rngs=RNGS), torch.nn.Conv2d(3, 5, 1)),
    "patches": (nnx.Conv(3, 5, (4, 4), strides=4, rngs=RNGS), torch.nn.Conv2d(3, 5, 4, stride=4)),
    "padding of each end": (
        nnx.Conv(3, 5, (3, 3), padding=((1, 1), (1, 1)), rngs=RNGS),
        torch.nn.Conv2d(3, 5, 3, padding=1),
    ),
    "strided, transposed": (
        nnx.ConvTranspose(3, 5, (3,), strides=2, padding="VALID", transpose_kernel=True, rngs=RNGS),
        torch.nn.ConvTranspose1d(3, 5, 3, stride=2),
    ),
    "LayerNorm": (nnx.LayerNorm(5, **TWO_PASSES), torch.nn.LayerNorm(5)),
    "LayerNorm, bare": (
        nnx.LayerNorm(5, use_scale=False, use_bias=False, **TWO_PASSES),
        torch.nn.LayerNorm(5, elementwise_affine=False),
    ),
    "RMSNorm": (nnx.RMSNorm(5, **FINE), torch.nn.RMSNorm(5, eps=1e-5)),
    "GroupNorm": (nnx.GroupNorm(6, num_groups=2, **TWO_PASSES), torch.nn.GroupNorm(2, 6)),
    "InstanceNorm": (nnx.InstanceNorm(5, **TWO_PASSES), torch.nn.InstanceNorm1d(5, affine=True)),
    "BatchNorm": (nnx.BatchNorm(5, momentum=0.9, **TWO_PASSES), torch.nn.BatchNorm1d(5)),
    "BatchNorm, not tracked": (
        nnx.BatchNorm(5, **TWO_PASSES),
        torch.nn.BatchNorm1d(5, track_running_stats=False),
    ),
    "Embed": (nnx.Embed(7, 5, rngs=RNGS), torch.nn.Embedding(7, 5)),
    "Dropout": (nnx.Dropout(0.1, rngs=RNGS), torch.nn.Dropout(0.1)),
    "MultiHeadAttention": (
        nnx.MultiHeadAttention(2, 14, decode=False, rngs=RNGS),
        torch.nn.MultiheadAttention(14, 2),
    ),
    "MultiHeadAttention, keys of another width": (
        nnx.MultiHeadAttention(2, 14, in_kv_features=11, dropout_rate=0.1, **ATTENTION),
        torch.nn.MultiheadAttention(14, 2, dropout=0.1, kdim=11, vdim=11),
    ),
    "LSTMCell": (nnx.OptimizedLSTMCell(3, 5, rngs=RNGS), torch.nn.LSTMCell(3, 5)),
    "GRUCell": (nnx.GRUCell(3, 5, rngs=RNGS), torch.nn.GRUCell(3, 5)),
    "LSTM": (nnx.RNN(nnx.LSTMCell(3, 5, rngs=RNGS)), torch.nn.LSTM(3, 5)),
    "one number for both axes": (Holder(window=(3, 3)), TorchHolder(window=3)),
    "a scale to divide by": (Holder(scaling=8.0), TorchHolder(scaling=0.125)),
    "torch's momentum": (Holder(momentum=0.1), TorchHolder(momentum=0.1)),
    "flax's momentum": (Holder(momentum=0.9), TorchHolder(momentum=0.1)),
    "how it is computed": (
        Holder(implementation="xla", compute_dtype="float32", layer_idx=0, use_cache=False),
        TorchHolder(implementation="sdpa", compute_dtype="torch.float32", layer_idx=1, use_cache=True),
    ),
}
DIFFERENT = {
    "SAME, strided": (conv(padding="SAME", strides=2), torch_conv(padding=1, stride=2), "padding"),
    "causal": (conv(padding="CAUSAL"), torch_conv(padding=1), "padding"),
    "dilation": (conv(padding=1), torch_conv(padding=1, dilation=2), "dilation"),
    "groups": (Holder(groups=2), TorchHolder(groups=4), "groups"),
    "slope": (Holder(act=jax.nn.leaky_relu), TorchHolder(act=torch.nn.LeakyReLU(0.2)), "activation"),
    "alpha": (Holder(act=jax.nn.elu), TorchHolder(act=torch.nn.ELU(0.5)), "activation"),
    "no activation": (Holder(act=None), TorchHolder(act=torch.nn.ReLU()), "activation"),
    "softplus": (Holder(act=jax.nn.softplus), TorchHolder(act=torch.nn.ReLU()), "activation"),
    "scale": (Holder(scale=0.125), TorchHolder(scale=0.25), "scale"),
    "window": (Holder(window=(3, 3)), TorchHolder(window=(4, 3)), "window"),
    "dropout of all heads at once": (
        nnx.MultiHeadAttention(2, 14, dropout_rate=0.1, decode=False, rngs=RNGS),
        torch.nn.MultiheadAttention(14, 2, dropout=0.1),
        "dropout mask shared by batch and heads",
    ),
    "number of heads": (
        nnx.MultiHeadAttention(7, 14, decode=False, rngs=RNGS),
        torch.nn.MultiheadAttention(14, 2),
        "num_heads",
    ),
    "scaling": (Holder(scaling=8.0), TorchHolder(scaling=8.0**-0.5), "scaling"),
    "momentum": (
        nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)),
        torch.nn.BatchNorm1d(4, momentum=None),
        "momentum",
    ),
    "padding_idx": (
        nnx.Embed(4, 3, rngs=nnx.Rngs(0)),
        torch.nn.Embedding(4, 3, padding_idx=0),
        "padding_idx",
    ),
    "max_norm": (nnx.Embed(4, 3, rngs=nnx.Rngs(0)), torch.nn.Embedding(4, 3, max_norm=1.0), "max_norm"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_in_other_words(name):
    assert [str(finding) for finding in lint_pair(*SAME[name])] == []


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs(name):
    flax, reference, setting = DIFFERENT[name]
    assert [finding.setting for finding in lint_pair(flax, reference)] == [setting]


def test_an_unknown_activation_goes_by_its_settings():
    (finding,) = lint_pair(*DIFFERENT["slope"][:2])
    assert (finding.flax, finding.torch) == ("leaky ReLU (0.01)", "LeakyReLU(negative_slope=0.2)")


FIRST = {twin.where: name for name, twin in reversed(CATALOGUE.items())}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.slow] * (row not in FIRST.values())) for row in CATALOGUE]
)
def test_twins_have_the_same_settings(row):
    assert lint_pair(CATALOGUE[row].flax(), CATALOGUE[row].torch()) == []


def settings(flax, reference, **options):
    return {(f.flax_path, f.setting): (f.flax, f.torch) for f in lint_pair(flax, reference, **options)}


def test_lint_finds_both_values():
    rngs = nnx.Rngs(0)
    assert settings(nnx.LayerNorm(5, rngs=rngs), torch.nn.LayerNorm(5)) == {
        ("", "eps"): (1e-6, 1e-5),
        ("", "variance"): ("E[x²] - E[x]²", "E[(x - E[x])²]"),
    }
    found = settings(nnx.BatchNorm(5, use_fast_variance=False, rngs=rngs), torch.nn.BatchNorm1d(5))
    assert found[("", "momentum")] == (pytest.approx(0.01), 0.1)
    found = settings(nnx.RMSNorm(5, rngs=rngs), torch.nn.RMSNorm(5), names=[("scale", "weight")])
    assert found[("", "eps")] == (1e-6, torch.finfo(torch.float32).eps)
    found = settings(nnx.Linear(5, 3, rngs=rngs), torch.nn.Linear(5, 3, bias=False))
    assert found[("", "bias")] == (True, False)
    found = settings(nnx.Conv(3, 5, (3, 3), 2, rngs=rngs), torch.nn.Conv2d(3, 5, 3, 2, 1))
    assert found == {("", "padding"): ("SAME", ((1, 1), (1, 1)))}


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (nnx.gelu, torch.nn.functional.gelu, ("tanh GELU", "erf GELU")),
        (jax.nn.relu, torch.nn.GELU(), ("ReLU", "erf GELU")),
        ("gelu_new", torch.nn.GELU(), ("tanh GELU", "erf GELU")),
        (nnx.silu, torch.nn.SiLU(), None),
        (jnp.tanh, torch.tanh, None),
    ],
)
def test_lint_of_activations(ours, theirs, words):
    class Ours(nnx.Module):
        def __init__(self):
            self.activation = ours
            self.up = nnx.Linear(3, 5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return x

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.activation = theirs
            self.up = torch.nn.Linear(3, 5)

        def forward(self, x):
            return x

    assert settings(Ours(), Theirs()) == ({} if words is None else {("", "activation"): words})


@pytest.mark.parametrize("name", PAIRS)
def test_lint_says_nothing_of_a_correct_pair(name):
    assert lint_pair(PAIRS[name].flax(), PAIRS[name].torch()) == []
