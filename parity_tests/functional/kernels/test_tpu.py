"""The TPU's kernels: against the oracle in interpret mode, and compiled for real TPUs without one.

The compiler is libtpu's, found in `.cache/libtpu` (`make tpu-compiler` puts it there) or where the
environment variable TPU_LIBRARY_PATH says. It runs in a process of its own: it is set up before JAX is.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional import mask_mods
from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.kernels import tpu
from jax_attn.functional.kernels.splash import splash_attention, why_not_splash
from jax_attn.functional.reference import reference_attention
from jax_attn.parity import tolerances
from parity_tests.functional.kernels.kernel_contract import KernelContract

ROOT = Path(__file__).parents[2]
COMPILER = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".cache/libtpu/libtpu/libtpu.so"))


class TestTpu(KernelContract):
    module = tpu


@pytest.mark.skipif(not COMPILER.is_file(), reason="no TPU compiler: `make tpu-compiler` fetches it")
@pytest.mark.parametrize(
    ("topology", "measures"),
    [("v5e:2x2", ["fused:8192", "fused:32768"]), ("v5p:2x2x1", ["fused:8192", "dense:4096"])],
)
def test_compiles_for_tpu(topology, measures):
    """Forward and backward, all sorts of tables; and long sequences take little memory besides their own."""
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
        assert jnp.abs(got - want).max() <= tolerances.SAME_FLOAT32 * max(1, jnp.abs(want).max())


@pytest.mark.parametrize(("options", "splash"), [({}, True), ({"return_residual": True}, False)])
def test_the_public_call_takes_splash_where_it_serves(monkeypatch, options, splash):
    """On a TPU, which is played by the CPU; no kernel runs."""
    taken = []
    x = jax.ShapeDtypeStruct((1, 256, 2, 128), jnp.bfloat16)

    def spy(module, name, result):
        monkeypatch.setattr(module, name, lambda q, *_, **__: taken.append(name) or result(q))

    spy(sys.modules["jax_attn.functional.kernels.splash"], "splash_attention", lambda q: q)
    spy(tpu, "pallas_attention", lambda q: (q, q[..., 0], q[..., 0]))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    call = partial(dot_product_attention, implementation="pallas", is_causal=True, **options)
    jax.eval_shape(call, x, x, x)
    assert taken == ["splash_attention" if splash else "pallas_attention"]


def test_no_kernel_is_imported_on_the_way_to_cpu():
    program = (
        "import sys, jax.numpy as jnp\n"
        "from jax_attn.functional.attention import dot_product_attention\n"
        "from jax_attn.functional.flex import flex_attention\n"
        "x = jnp.ones((1, 3, 1, 2))\n"
        "dot_product_attention(x, x, x), flex_attention(x, x, x)\n"
        "kernels = {'jax_attn.functional.kernels.' + n for n in ('tpu', 'gpu', 'splash', 'cudnn', 'fused')}\n"
        "assert not kernels & set(sys.modules), 'a kernel was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=os.environ)
