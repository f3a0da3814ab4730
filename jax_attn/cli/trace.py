"""`jax-attn trace`: record a run of torch, to be compared on a machine that has none."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import tyro

from jax_attn.cli.terminal import tell_written, terminal
from jax_attn.cli.user_file import load_port
from jax_attn.parity.recorded.files import JSON, TENSORS
from jax_attn.parity.recorded.record import record_trace
from jax_attn.parity.text import count
from jax_attn.visualize.torch_weights import torch_attention_weights


def trace(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py[:function]")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
) -> int:
    """Record a run of a torch model: weights, inputs, outputs, every gradient, every submodule's calls, and what
    its attentions look at.

    The function is that of `jax-attn diff`, and the Flax module may be lacking:

        def pair():
            return {"torch": torch.nn.LayerNorm(8), "inputs": (np.ones((2, 5, 8)),)}

    Where there is torch, and then where there is none:

        jax-attn trace original.py --out run
        jax-attn diff port.py --against run
        jax-attn show --module port.py --against run

    The second file, or function, returns the Flax module alone, or a dict with "flax"; it must not import
    torch. The inputs are the recorded ones.

    Args:
        file: the Python file, and the function in it.
        out: the folder to write to; a trace that is there is replaced.
    """
    port = load_port(file, "torch")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {out}")
    found = record_trace(port.torch, port.case, call=port.call_torch, seed=port.seed)
    port.torch.eval()  # as it was recorded
    with suppress(Exception):  # it has no attention, or none that can be asked: the recording is good without
        found.attention = torch_attention_weights(
            port.torch, *port.case.args, call=port.call_torch, **port.case.kwargs
        )
    size = found.save(out)
    calls = count(len(found.recordings["float64"].calls), "call")
    weights = count(len(found.module.weights), "weight")
    lanes = " and ".join(found.draws)
    console = terminal()
    console.print(f"{calls} of submodules, {weights}, in {lanes}, {size / 2**20:.1f} MiB", markup=False)
    tell_written(console, (out / name for name in (JSON, TENSORS)))
    return 0
