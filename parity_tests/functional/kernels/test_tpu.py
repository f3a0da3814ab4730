"""The TPU's kernels: against the oracle in interpret mode, and compiled for real TPUs without one.

The compiler is libtpu's, found in `.cache/libtpu` (`make tpu-compiler` puts it there) or where the
environment variable TPU_LIBRARY_PATH says. It runs in a process of its own: it is set up before JAX is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional import mask_mods
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.kernels import tpu
from jax_attn.functional.kernels.mosaic import MOSAIC
from jax_attn.functional.kernels.splash import why_not_splash
from jax_attn.functional.kernels.visits import MaskTerms, make_pattern
from jax_attn.functional.reference import reference_attention
from jax_attn.parity import tolerances
from parity_tests.functional.kernels.kernel_contract import KernelContract

ROOT = Path(__file__).parents[3]
COMPILER = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".cache/libtpu/libtpu/libtpu.so"))


class TestMosaic(KernelContract):
    implementation = MOSAIC


@pytest.mark.skipif(not COMPILER.is_file(), reason="no TPU compiler: `make tpu-compiler` fetches it")
@pytest.mark.parametrize(
    ("topology", "measures"),
    [("v5e:2x2", ["fused:8192", "fused:32768"]), ("v5p:2x2x1", ["fused:8192", "dense:4096"])],
)
def test_compiles_for_tpu(topology, measures):
    """Forward and backward, by default and with all sorts of tables; long sequences take little memory."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_LIBRARY_PATH": str(COMPILER),
        "TPU_SKIP_MDS_QUERY": "1",
    }
    program = Path(__file__).with_name("compile_for_tpu.py")
    run = subprocess.run(
        [sys.executable, program, topology, *measures],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["compiled"] == ["tables", "splash"]
    for kernels, moved in report["defaults"]["one chip"].values():
        assert kernels == 3
        assert not moved
    for kernels, moved in report["defaults"]["over the batch"].values():  # XLA cannot divide a kernel
        assert kernels == 0
        assert not moved
    # Temporaries in units of one chip's queries: the same multiple at 8k and 32k tokens is linear memory.
    temporaries = report["temporaries"]
    assert [*temporaries] == measures
    for measure, ratio in temporaries.items():
        # A matrix of scores would not go unseen.
        assert ratio > 10 if measure.startswith("dense") else ratio <= 4, temporaries


@pytest.mark.parametrize(
    ("dtype", "block", "reason"),
    [
        (jnp.float64, 128, "no float64"),
        (jnp.float16, 128, "no float16"),
        (jnp.bfloat16, 100, "multiple of 128"),
        (jnp.bfloat16, 64, None),
        (jnp.bfloat16, 256, None),
    ],
)
def test_says_why_not(dtype, block, reason):
    mask = create_block_mask(mask_mods.causal, None, None, 300, 300, BLOCK_SIZE=block)
    x = jax.ShapeDtypeStruct((1, 300, 2, 64), dtype)
    answer = tpu.why_not_tpu(x, x, x, None, mask)
    assert answer is None if reason is None else reason in answer


def test_a_table_of_all_pairs_is_refused_where_nothing_given_is_as_large():
    x = jax.ShapeDtypeStruct((1, 8192, 2, 64), jnp.bfloat16)
    table = jnp.zeros(2 * 8192)
    far = tpu.why_not_tpu(x, x, x, lambda score, b, h, q_idx, kv_idx: score + table[q_idx - kv_idx + 8192])
    assert far is not None
    assert "pairs of positions" in far
    near = tpu.why_not_tpu(x, x, x, lambda score, b, h, q_idx, kv_idx: score + table[q_idx])
    assert near is None


@pytest.mark.parametrize(
    ("terms", "tokens", "steps"),
    [
        (MaskTerms(is_causal=True), 32_768, (64, 64)),
        (MaskTerms(is_causal=True, local_window_size=(1023, 0)), 32_768, (3, 3)),
        (MaskTerms(is_causal=True, local_window_size=(1023, 0)), 262_144, (3, 3)),
    ],
)
def test_a_grid_has_as_many_steps_as_the_widest_row(terms, tokens, steps):
    x = jax.ShapeDtypeStruct((1, tokens, 8, 64), jnp.bfloat16)
    tile = tpu.best_tile(x, x, terms)
    pattern = make_pattern(terms, (tokens, tokens), tile)
    assert pattern.steps == steps
    assert pattern.of_rows().order.nbytes <= 2**17


def test_lengths_and_segments_that_are_traced_leave_the_band_sparse():
    """Steps are those of the band; the data closes tiles of it."""

    def kinds(lengths, ids):
        terms = MaskTerms(True, (31, 0), key_value_seq_lengths=lengths, segment_ids=(ids, ids))
        pattern = make_pattern(terms, (128, 128), (32, 32))
        assert pattern.steps == (2, 2)
        return pattern.kinds

    ids = jnp.arange(128)[None] // 64
    assert jax.jit(kinds)(jnp.array([100]), ids)[0, 0].tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"score_mod": abs}, "no score_mod"),
        ({"dtype": jnp.float16}, "not float16"),
        ({"value_dim": 64}, "must be equal"),
        ({"keys": 200}, "multiple of 128"),
        ({"keys": 128, "mask": MaskTerms(local_window_size=(5, 0))}, "see nothing"),
        ({"mask": MaskTerms(key_value_seq_lengths=jnp.ones(2, int))}, "as arrays"),
    ],
)
def test_says_why_not_splash(change, reason):
    options = {"dtype": jnp.bfloat16, "value_dim": 80, "keys": 256} | change
    dtype, value_dim, keys = (options.pop(name) for name in ("dtype", "value_dim", "keys"))
    query, key, value = (
        jax.ShapeDtypeStruct((2, n, 4, width), dtype)
        for n, width in ((256, 80), (keys, 80), (keys, value_dim))
    )
    answer = why_not_splash(query, key, value, **options)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize(
    ("terms", "softcap"),
    [
        pytest.param(MaskTerms(is_causal=True), None, marks=pytest.mark.slow),
        (MaskTerms(local_window_size=(9, 3)), 2.0),
    ],
)
def test_splash_equals_the_oracle(terms, softcap):
    """A head width of 80 is padded to 128; the log-sum-exp has a gradient too."""
    generator = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(generator.standard_normal(shape), jnp.float32)
        for shape in [(1, 128, 2, 80), (1, 256, 1, 80), (1, 256, 1, 80)]
    )

    def ours(q, k, v):
        result = tpu.tpu_attention(
            q, k, v, None, terms, softcap=softcap, residuals=False, interpret=True, tile=(128, 128)
        )
        assert result.max_scores is None
        return (result.output**2).sum() + result.lse.sum(), result.output

    def oracle(q, k, v):
        options = {"is_causal": terms.is_causal, "local_window_size": terms.local_window_size}
        result = reference_attention(q, k, v, softcap=softcap, **options)
        return (result.output**2).sum() + result.lse.sum(), result.output

    with jax.default_matmul_precision("highest"):
        actual, expected = (
            jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v) for loss in (ours, oracle)
        )
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(got - want).max() <= tolerances.SAME_FLOAT32 * max(1, jnp.abs(want).max())


@pytest.mark.slow
def test_no_kernel_is_imported_on_the_way_to_cpu():
    program = (
        "import sys, jax.numpy as jnp\n"
        "from jax_attn.functional.attention import dot_product_attention\n"
        "from jax_attn.functional.flex import flex_attention\n"
        "x = jnp.ones((1, 3, 1, 2))\n"
        "dot_product_attention(x, x, x), flex_attention(x, x, x)\n"
        "kernels = [name for name in sys.modules if name.startswith('jax_attn.functional.kernels')]\n"
        "assert not kernels, f'{kernels} were imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=os.environ)
