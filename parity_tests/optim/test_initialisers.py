"""Initialisers against the samples of torch's own modules: bounds, moments, and Kolmogorov-Smirnov."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy import stats

from jax_attn.optim import initialisers

E, OUT = 96, 67


def torch_mha(**options):
    torch.manual_seed(0)
    return torch.nn.MultiheadAttention(E, 4, **options)


def torch_linear():
    torch.manual_seed(0)
    return torch.nn.Linear(E, OUT)


def torch_embedding():
    torch.manual_seed(0)
    return torch.nn.Embedding(101, 37)


def many(build):
    """Enough draws of a small leaf to compare distributions."""
    torch.manual_seed(0)
    return torch.cat([build().detach().flatten() for _ in range(40)])


KERNEL = 1.0 / math.sqrt(E)
XAVIER = math.sqrt(6.0 / (E + 3 * E))
NORMAL = "normal"

# initialiser, shape, torch's leaf, bound of the uniform or the normal, standard deviation
CASES = {
    "linear kernel": (
        initialisers.linear_kernel(),
        (E, OUT),
        lambda: torch_linear().weight,
        KERNEL,
        KERNEL / math.sqrt(3),
    ),
    "linear kernel of heads": (
        initialisers.linear_kernel(),
        (E, 4, 24),
        lambda: torch_linear().weight,
        KERNEL,
        KERNEL / math.sqrt(3),
    ),
    "linear bias": (
        initialisers.linear_bias(E),
        (2680,),
        lambda: many(lambda: torch.nn.Linear(E, OUT).bias),
        KERNEL,
        KERNEL / math.sqrt(3),
    ),
    "embedding": (initialisers.embedding(), (101, 37), lambda: torch_embedding().weight, NORMAL, 1.0),
    "packed projection": (
        initialisers.attention_in_proj(),
        (E, 3 * E),
        lambda: torch_mha().in_proj_weight,
        XAVIER,
        XAVIER / math.sqrt(3),
    ),
    "one projection of three": (
        initialisers.attention_in_proj(packed=False),
        (E, 4, 24),
        lambda: torch_mha().in_proj_weight[:E],
        XAVIER,
        XAVIER / math.sqrt(3),
    ),
    "projection of its own width": (
        jax.nn.initializers.xavier_uniform(),
        (41, E),
        lambda: torch_mha(kdim=41).k_proj_weight,
        math.sqrt(6 / (41 + E)),
        math.sqrt(2 / (41 + E)),
    ),
    "output projection": (
        initialisers.attention_out_proj(),
        (4, 24, E),
        lambda: torch_mha().out_proj.weight,
        KERNEL,
        KERNEL / math.sqrt(3),
    ),
    "bias of keys": (
        initialisers.attention_bias_kv(),
        (40, 1, E),
        lambda: many(lambda: torch.nn.MultiheadAttention(E, 4, add_bias_kv=True).bias_k),
        NORMAL,
        KERNEL,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_distributions_equal_torchs(case):
    init, shape, leaf, bound, deviation = CASES[case]
    ours = np.asarray(init(jax.random.key(0), shape, jnp.float32), np.float64)
    theirs = leaf().detach().double().numpy()
    assert ours.shape == shape
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 0.01
    for sample in (ours, theirs):
        assert abs(sample.std() / deviation - 1.0) < 0.05
        assert abs(sample.mean()) < 4 * deviation / math.sqrt(sample.size)
        if bound is not NORMAL:
            assert 0.99 * bound < np.max(np.abs(sample)) <= bound * (1 + 1e-6)


@pytest.mark.parametrize(
    ("case", "other"),
    [
        ("linear kernel", nnx.initializers.lecun_normal()),
        ("embedding", nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)),
        ("one projection of three", nnx.initializers.xavier_uniform()),
    ],
)
def test_the_usual_initialisers_are_told_from_torchs(case, other):
    _, shape, leaf, _, _ = CASES[case]
    shape = (shape[0], math.prod(shape[1:]))
    ours = np.asarray(other(jax.random.key(0), shape, jnp.float32))
    assert stats.ks_2samp(ours.ravel(), leaf().detach().numpy().ravel()).pvalue < 1e-6


def test_the_biases_of_attention_begin_at_zero():
    module = torch_mha()
    assert not module.in_proj_bias.any()
    assert not module.out_proj.bias.any()


@pytest.mark.parametrize("padding_idx", [0, 5, -1])
def test_the_padding_row_is_zero_as_torchs(padding_idx):
    table = np.asarray(initialisers.embedding(padding_idx)(jax.random.key(0), (7, 3)))
    theirs = torch.nn.Embedding(7, 3, padding_idx=padding_idx).weight.detach().numpy()
    np.testing.assert_array_equal((table == 0).all(axis=1), (theirs == 0).all(axis=1))


def test_nnx_modules_take_them():
    rngs = nnx.Rngs(0)
    linear = nnx.Linear(
        E,
        OUT,
        kernel_init=initialisers.linear_kernel(),
        bias_init=initialisers.linear_bias(E),
        param_dtype=jnp.bfloat16,
        rngs=rngs,
    )
    assert linear.kernel.dtype == linear.bias.dtype == jnp.bfloat16
    assert jnp.max(jnp.abs(linear.bias[...])) > 0
    attention = nnx.MultiHeadAttention(
        4,
        E,
        kernel_init=initialisers.attention_in_proj(packed=False),
        out_kernel_init=initialisers.attention_out_proj(),
        decode=False,
        rngs=rngs,
    )
    for kernel, bound in ((attention.query.kernel, XAVIER), (attention.out.kernel, KERNEL)):
        assert 0.99 * bound < jnp.max(jnp.abs(kernel[...])) <= bound * (1 + 1e-6)
    nnx.Embed(11, 5, embedding_init=initialisers.embedding(padding_idx=0), rngs=rngs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="padding_idx"):
        initialisers.embedding(7)(jax.random.key(0), (7, 3))
    with pytest.raises(ValueError, match="in_features"):
        initialisers.linear_bias(0)
