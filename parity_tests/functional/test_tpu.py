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

from jax_attn.functional import mask_mods, tpu
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.splash import splash_attention, why_not_splash
from parity_tests.functional.kernel_contract import KernelContract

ROOT = Path(__file__).parents[2]
COMPILER = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".cache/libtpu/libtpu/libtpu.so"))


class TestTpu(KernelContract):
    module = tpu


@pytest.mark.skipif(not COMPILER.is_file(), reason="no TPU compiler: `make tpu-compiler` fetches it")
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_compiles_for_tpu(topology):
    """Forward and backward, all sorts of tables; and long sequences take little memory besides their own."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_LIBRARY_PATH": str(COMPILER),
        "TPU_SKIP_MDS_QUERY": "1",
    }
    program = Path(__file__).with_name("compile_for_tpu.py")
    run = subprocess.run(
        [sys.executable, program, topology], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["compiled"] == ["tables", "splash"]
    # Temporaries at 8k and 32k tokens in units of one chip's queries: the same multiple is linear memory.
    assert len(report["temporaries"]) == 2
    assert all(0 < ratio <= 4 for ratio in report["temporaries"]), report


@pytest.mark.parametrize(
    ("dtype", "block", "reason"),
    [
        (jnp.float64, 128, "no float64"),
        (jnp.float16, 128, "no float16"),
        (jnp.bfloat16, 64, "multiple of 128"),
        (jnp.bfloat16, 256, None),
    ],
)
def test_says_why_not(dtype, block, reason):
    mask = create_block_mask(mask_mods.causal, None, None, 300, 300, BLOCK_SIZE=block)
    answer = tpu.why_not_pallas(dtype, mask)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"is_causal": True, "softcap": 2.0, "sinks": None}, None),
        ({"sinks": np.ones(4)}, "no sinks"),
        ({"dtype": jnp.float16}, "not float16"),
        ({"head_dim": 64}, "multiples of 128"),
        ({"keys": 200}, "T and S"),
        ({"keys": 128, "local_window_size": (5, 0)}, "see nothing"),
    ],
)
def test_says_why_not_splash(change, reason):
    options = {"dtype": jnp.bfloat16, "head_dim": 128, "keys": 256} | change
    dtype, head_dim, keys = (options.pop(name) for name in ("dtype", "head_dim", "keys"))
    query, key = (jax.ShapeDtypeStruct((2, n, 4, head_dim), dtype) for n in (256, keys))
    answer = why_not_splash(query, key, key, **options)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize("options", [{"is_causal": True}, {"local_window_size": (9, 3), "softcap": 2.0}])
def test_splash_equals_the_oracle(options):
    generator = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(generator.standard_normal(shape), jnp.float32)
        for shape in [(1, 128, 2, 128), (1, 256, 1, 128), (1, 256, 1, 128)]
    )

    def ours(q, k, v):
        output = splash_attention(q, k, v, **options, interpret=True)
        return (output**2).sum(), output

    def oracle(q, k, v):
        output = reference_attention(q, k, v, **options).output
        return (output**2).sum(), output

    with jax.default_matmul_precision("highest"):
        actual, expected = (
            jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v) for loss in (ours, oracle)
        )
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(got - want).max() <= 1e-5 * max(1, jnp.abs(want).max())
