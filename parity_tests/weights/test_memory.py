"""Loading holds one copy of the weights: neither initial weights nor the file's stand beside it, ever.

No device holds more than its shards, either.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In a process of its own, since memory that was freed before would hide what is taken now.
PROGRAM = """
import ctypes, gc, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax_attn.models.bert import Bert
from jax_attn.weights import from_pretrained, numpy_state_dict, save_pretrained

folder, sizes = sys.argv[1], json.loads(sys.argv[2])
abstract = nnx.eval_shape(lambda: Bert(**sizes, rngs=nnx.Rngs(0)))
params = nnx.state(abstract, nnx.Param)
nnx.update(abstract, jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), params))
save_pretrained(abstract, folder, max_shard_size="100MB")
weights = sum(value.nbytes for value in numpy_state_dict(abstract).values())
del abstract, params
mesh = jax.make_mesh((4,), ("model",))

def last_axis(path, shape):
    return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), "model"))

# What is allocated once and for good:
for sharding in (None, last_axis):
    from_pretrained(folder, num_hidden_layers=1, ignore=["encoder.layer.[1-9].*"], sharding=sharding)
gc.collect()

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(name))

def peak_of(load):
    # All kinds of memory, the mapped file's pages too.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would hide what is taken
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = memory("VmRSS")
    module = load()
    peak = memory("VmHWM") - before
    gc.collect()
    return module, peak, memory("VmRSS") - before

out = dict(weights=weights)
cases = {
    "same": {},
    "half": {"param_dtype": "bfloat16"},
    "scan": {"scan": True},
    "sharded": {"sharding": last_axis},
}
for name, options in cases.items():
    module, out[name + "_peak"], out[name + "_after"] = peak_of(lambda: from_pretrained(folder, **options))
    live = [array for array in jax.live_arrays() if array.ndim]
    out[name + "_live"] = sum(array.nbytes for array in live)
    if name == "sharded":
        kernel = module.encoder.layers[1].feed_forward.up.kernel[...]
        out["shards"] = [list(shard.data.shape) for shard in kernel.addressable_shards]
        whole = from_pretrained(folder)
        pairs = zip(jax.tree.leaves(nnx.state(module, nnx.Param)), jax.tree.leaves(nnx.state(whole, nnx.Param)))
        out["equal"] = all(bool((np.asarray(a) == np.asarray(b)).all()) for a, b in pairs)
    del module, live
    gc.collect()
print(json.dumps(out))
"""

# The table is more than half of the weights.
SIZES = (
    '{"vocab_size": 40009, "hidden_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 16,'
    ' "intermediate_size": 4096, "max_position_embeddings": 16}'
)


# Slow, because it wants a machine of its own: beside other tests the peak holds what JAX has not given back yet.
@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads the process's memory from /proc"
)
def test_loading_takes_one_copy_of_the_weights(tmp_path):
    run = [sys.executable, "-c", PROGRAM, str(tmp_path), SIZES]
    flags = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(run, cwd=ROOT, env=flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["weights"] > 150e6
    for name, share in (("same", 1.0), ("half", 0.5), ("scan", 1.0), ("sharded", 1.0)):
        held = share * seen["weights"]
        assert seen[f"{name}_live"] == pytest.approx(held, rel=0.01)
        assert seen[f"{name}_peak"] < 1.2 * held, name
        assert seen[f"{name}_after"] < 1.2 * held, name
    assert seen["shards"] == [[1024, 1024]] * 4
    assert seen["equal"]
