"""Loading holds one copy of the weights: neither initial weights nor the file's stand beside it, ever."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In a process of its own, since memory that was freed before would hide what is taken now.
PROGRAM = """
import gc, json, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax_attn.models.bert import Bert
from jax_attn.weights import from_pretrained, numpy_state_dict, save_pretrained

folder, sizes = sys.argv[1], json.loads(sys.argv[2])
abstract = nnx.eval_shape(lambda: Bert(**sizes, rngs=nnx.Rngs(0)))
params = nnx.state(abstract, nnx.Param)
nnx.update(abstract, jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), params))
save_pretrained(abstract, folder)
weights = sum(value.nbytes for value in numpy_state_dict(abstract).values())
largest = max(value.nbytes for value in numpy_state_dict(abstract).values())
del abstract, params
gc.collect()
# What is allocated once and for good:
from_pretrained(folder, num_hidden_layers=1, ignore=["encoder.layer.[1-9].*"])
gc.collect()

def resident():  # memory of our own, without the mapped file, which the system takes back when it likes
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def peak_of(load):
    before, peak, done = resident(), 0, threading.Event()
    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    module = load()
    done.set()
    thread.join()
    gc.collect()
    return module, max(peak, resident()) - before, resident() - before

out = dict(weights=weights, largest=largest)
for name, param_dtype in (("same", None), ("half", "bfloat16")):
    load = lambda: from_pretrained(folder, param_dtype=param_dtype)
    module, out[name + "_peak"], out[name + "_after"] = peak_of(load)
    out[name + "_live"] = sum(array.nbytes for array in jax.live_arrays() if array.ndim)
    del module
    gc.collect()
print(json.dumps(out))
"""

SIZES = (
    '{"vocab_size": 97, "hidden_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 16,'
    ' "intermediate_size": 4096, "max_position_embeddings": 16}'
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_loading_takes_one_copy_of_the_weights(tmp_path):
    run = [sys.executable, "-c", PROGRAM, str(tmp_path), SIZES]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["weights"] > 150e6
    slack = 2 * seen["largest"] + 0.15 * seen["weights"]  # the tensor in hand, and the compiler's own
    assert seen["same_live"] == pytest.approx(seen["weights"], rel=0.01)
    assert seen["half_live"] == pytest.approx(seen["weights"] / 2, rel=0.01)
    assert seen["same_peak"] < seen["weights"] + slack
    assert seen["same_after"] < seen["weights"] + slack
    assert seen["half_peak"] < seen["weights"] / 2 + slack
    assert seen["half_after"] < seen["weights"] / 2 + slack
