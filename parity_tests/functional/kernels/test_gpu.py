"""The GPU's kernels: against the oracle in interpret mode, and lowered for CUDA. Neither needs a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.kernels import gpu
from jax_attn.functional.kernels.cudnn import cudnn_attention, why_not_cudnn
from jax_attn.functional.kernels.triton import TRITON
from jax_attn.functional.reference import reference_attention
from jax_attn.parity import tolerances
from parity_tests.functional.kernels.kernel_contract import KernelContract

CUSTOM_CALL = "__gpu$xla.gpu.triton"


class TestTriton(KernelContract):
    """In tiles of 16, which a block of the block mask is here."""

    implementation = TRITON

    @pytest.mark.slow  # by default the TPU's kernels show it
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_no_further_from_the_truth_than_the_oracle(self, dtype):
        super().test_no_further_from_the_truth_than_the_oracle(dtype)

    @pytest.mark.slow
    def test_empty_blocks_are_not_looked_at_and_full_ones_do_not_ask_the_mask(self):
        super().test_empty_blocks_are_not_looked_at_and_full_ones_do_not_ask_the_mask()

    @pytest.mark.slow
    @pytest.mark.parametrize("hidden", ["by lengths", "by a mask"])
    def test_what_nobody_sees_may_be_nan(self, hidden):
        super().test_what_nobody_sees_may_be_nan(hidden)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # from JAX 0.12 on; still there
@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_lowers_for_cuda_forward_and_backward(dtype):
    batch, queries, keys, heads = 2, 200, 333, 4
    mask = mask_mods.document(jnp.zeros((batch, queries), int), jnp.zeros((batch, keys), int))
    block_mask = create_block_mask(mask, batch, None, queries, keys)

    def loss(q, k, v, table, bias):
        t5, learned = score_mods.t5_bias(table), score_mods.learned_bias(bias)
        result = gpu.triton_attention(q, k, v, lambda s, *at: t5(learned(s, *at), *at), block_mask)
        return result.output.astype(jnp.float32).sum() + result.lse.sum()

    shapes = [(batch, queries, heads, 72), (batch, keys, 2, 72), (batch, keys, 2, 40)]
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    tables = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(32, heads), (queries, keys)]]
    h100 = AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=h100)):  # JAX 0.12 asks which GPU it is for
        exported = export.export(
            jax.jit(jax.grad(loss, argnums=range(5))),
            platforms=["cuda"],
            disabled_checks=[export.DisabledSafetyCheck.custom_call(CUSTOM_CALL)],
        )(*operands, *tables)
    assert exported.mlir_module().count(CUSTOM_CALL) == 4  # forward, dq, dk and dv, and the bias of pairs


@pytest.mark.parametrize(
    ("dtype", "head_dim", "block", "reason"),
    [
        (jnp.float64, 64, 128, "no float64"),
        (jnp.bfloat16, 512, 128, "at most 256"),
        (jnp.bfloat16, 64, 24, "multiple of 16"),
        (jnp.bfloat16, 64, 128, None),
    ],
)
def test_says_why_not(dtype, head_dim, block, reason):
    mask = create_block_mask(mask_mods.causal, None, None, 48, 48, BLOCK_SIZE=block)
    x = jax.ShapeDtypeStruct((1, 48, 2, head_dim), dtype)
    answer = gpu.why_not_triton(x, x, x, None, mask)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"dtype": jnp.float32}, "not float32"),
        ({"head_dim": 36}, "multiple of 8"),
        ({"head_dim": 136}, "at most 128"),
        ({"softcap": 2.0}, "no softcap"),
        ({"score_mod": abs}, "no score_mod"),
        ({"dropout_rate": 0.1}, "no dropout_rate"),
        ({"dropout_rate": 0.0, "return_weights": False}, None),
        ({"local_window_size": (3, 1)}, "look ahead"),
        ({"local_window_size": (3, 1), "is_causal": True}, None),
        ({"mask": np.ones((1, 1, 1, 32), bool)}, "T and S whole"),
        ({"bias": np.ones((1, 1, 16, 32))}, None),
    ],
)
def test_says_why_not_cudnn(change, reason):
    options = {"dtype": jnp.bfloat16, "head_dim": 64} | change
    dtype, head_dim = options.pop("dtype"), options.pop("head_dim")
    query, key = (jax.ShapeDtypeStruct((2, n, 4, head_dim), dtype) for n in (16, 32))
    answer = why_not_cudnn(query, key, key, **options)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True, "query_seq_lengths": [29, 11], "key_value_seq_lengths": [0, 17]},
        {"local_window_size": (3, 0), "key_value_seq_lengths": [5, 37]},
        {"mask": np.arange(37) > 9, "is_causal": True},
    ],
)
def test_around_cudnn_rows_that_see_nothing_are_zero(options):
    generator = np.random.default_rng(0)
    q, k, v = (jnp.asarray(generator.standard_normal((2, n, 4, 8)), jnp.float32) for n in (29, 37, 37))
    options = {name: jnp.asarray(x) if name.endswith("lengths") else x for name, x in options.items()}
    if "mask" in options:
        options["mask"] = jnp.broadcast_to(options["mask"], (1, 1, 29, 37))

    @jax.jit
    def both(q, k, v):
        expected = reference_attention(q, k, v, **options)
        return cudnn_attention(q, k, v, **options, implementation="xla"), (expected.output, expected.lse)

    (output, lse), (expected, expected_lse) = jax.tree.map(np.asarray, both(q, k, v))
    assert np.allclose(output, expected, atol=1e-6)
    assert np.allclose(lse, expected_lse, atol=tolerances.SAME_FLOAT32)


def test_cudnn_has_no_gradient_of_the_log_sum_exp():
    q = jnp.ones((1, 2, 1, 8))
    jax.jit(jax.grad(lambda q: cudnn_attention(q, q, q, implementation="xla")[0].sum()))(q)
    with pytest.raises(ValueError, match="no gradient of the log-sum-exp"):
        jax.jit(jax.grad(lambda q: cudnn_attention(q, q, q, implementation="xla")[1].sum()))(q)
