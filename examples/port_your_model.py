"""Port a torch model to Flax NNX, and let the comparison find the mistake in the port.

    python examples/port_your_model.py                     # Flax's default epsilon where torch has another
    python examples/port_your_model.py --mistake mask      # gelu, mask and norm-first are there too
    jax-attn diff examples/port_your_model.py              # the same port, as you would compare your own
    jax-attn diff examples/port_your_model.py:repaired --train --html port.html

The original is `torch.nn.TransformerEncoder`, which nobody wrote with a port in mind. Its port has three
stages: the feed-forward layers, the encoder layer, the encoder. Each is compared with its original before
the next is built on it: outputs and all gradients, first in float64, where only a mistake makes a difference.

Expected: the mistake shows in the first stage that has it, with the module at fault and the cause; the
repaired port agrees in every lane, and so does its training. It takes about 15 s of processor time on a CPU.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
import optax
import torch
import tyro
from flax import nnx

from jax_attn.parity import Report, compare, diagnose

WIDTH, HEADS, HIDDEN, LAYERS = 12, 3, 20, 2  # all different: transposed axes cannot pass
BATCH, TOKENS = 2, 5

Mistake = Literal["epsilon", "gelu", "mask", "norm-first", "none"]


def original() -> torch.nn.TransformerEncoder:
    """The torch model, as it comes."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, activation="gelu", batch_first=True)
    model = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    for parameter in model.parameters():  # norms start at 1 and biases at 0: that would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def example_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and which of them are padding. Inputs without padding could not tell what a mask means."""
    x = np.random.default_rng(0).standard_normal((BATCH, TOKENS, WIDTH))
    padding = np.zeros((BATCH, TOKENS), bool)
    padding[0, 3:] = padding[1, 1] = True
    return x, padding


class FeedForward(nnx.Module):
    """Stage 1: `W2 gelu(W1 x)`. In torch it is a part of the layer, and its attributes go by those names."""

    def __init__(self, mistake: Mistake = "none", *, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.linear2 = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.approximate = mistake == "gelu"  # the default of `jax.nn.gelu`, and not that of torch

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(b, t, WIDTH) -> (b, t, WIDTH)`."""
        return self.linear2(self.dropout(jax.nn.gelu(self.linear1(x), approximate=self.approximate)))


class EncoderLayer(nnx.Module):
    """Stage 2: attention and feed-forward, each added to its input and normalised after."""

    def __init__(self, mistake: Mistake = "none", *, rngs: nnx.Rngs):
        # Torch draws a dropout mask for each head, Flax by default one for all of them.
        dropout: Any = {"dropout_rate": 0.1, "broadcast_dropout": False}
        self.self_attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, **dropout, rngs=rngs)
        self.feed_forward = FeedForward(mistake, rngs=rngs)
        # Flax's default epsilon and torch's; and Flax's fast variance, E[x²] - E[x]², is the noisier one.
        norm: Any = {"epsilon": 1e-6 if mistake == "epsilon" else 1e-5, "use_fast_variance": False}
        self.norm1 = nnx.LayerNorm(WIDTH, **norm, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, **norm, rngs=rngs)
        self.dropout1 = nnx.Dropout(0.1, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.1, rngs=rngs)
        self.mistake = mistake

    def __call__(self, x: jax.Array, padding: jax.Array) -> jax.Array:
        """`(b, t, WIDTH), (b, t) -> (b, t, WIDTH)`; `padding` is True where torch's is: to be ignored."""
        attend = padding if self.mistake == "mask" else ~padding  # Flax's True is: attend
        mask = attend[:, None, None, :]
        if self.mistake == "norm-first":
            x = x + self.dropout1(self.self_attn(self.norm1(x), mask=mask))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, mask=mask)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class Encoder(nnx.Module):
    """Stage 3: the layers, one after another."""

    def __init__(self, mistake: Mistake = "none", *, rngs: nnx.Rngs):
        self.layers = nnx.List([EncoderLayer(mistake, rngs=rngs) for _ in range(LAYERS)])

    def __call__(self, x: jax.Array, padding: jax.Array) -> jax.Array:
        """`(b, t, WIDTH), (b, t) -> (b, t, WIDTH)`."""
        for layer in self.layers:
            x = layer(x, padding)
        return x


# Torch has no module for the feed-forward layers, so its keys lack that part of ours.
NAMES = [(r"feed_forward\.", "")]


def call_torch(module: Any, x: Any, padding: Any) -> Any:
    """Both call the mask by another name."""
    return module(x, src_key_padding_mask=padding)


def pair(mistake: Mistake = "epsilon") -> dict[str, Any]:
    """What `jax-attn diff` asks for; here the port still has a mistake."""
    return {
        "flax": Encoder(mistake, rngs=nnx.Rngs(0)),
        "torch": original(),
        "inputs": example_inputs(),
        "names": NAMES,
        "call_torch": call_torch,
        "batches": [(*example_inputs(), np.random.default_rng(1).standard_normal((BATCH, TOKENS, WIDTH)))],
        "loss": (
            lambda model, x, padding, y: ((model(x, padding) - y) ** 2).mean(),
            lambda model, x, padding, y: ((call_torch(model, x, padding) - y) ** 2).mean(),
        ),
        "optimizer": (optax.sgd(0.1), lambda parameters: torch.optim.SGD(parameters, 0.1)),
    }


def repaired() -> dict[str, Any]:
    """The port without the mistake."""
    return pair("none")


class TorchFeedForward(torch.nn.Module):
    """What the torch layer does with its feed-forward layers, as a module to compare with."""

    def __init__(self, layer: Any):
        super().__init__()
        self.linear1, self.dropout, self.linear2 = layer.linear1, layer.dropout, layer.linear2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(b, t, WIDTH) -> (b, t, WIDTH)`."""
        return self.linear2(self.dropout(torch.nn.functional.gelu(self.linear1(x))))


def stages(mistake: Mistake, lanes: Sequence[str]) -> list[Report]:
    """Compare stage by stage, up to the first that differs."""
    model, (x, padding) = original(), example_inputs()
    layer: Any = model.layers[0]
    rngs, reports = nnx.Rngs(0), []
    options: Any = {"names": NAMES, "lanes": lanes}
    for title, flax, theirs, inputs, call in (
        ("1, feed-forward", FeedForward(mistake, rngs=rngs), TorchFeedForward(layer), (x,), None),
        ("2, layer", EncoderLayer(mistake, rngs=rngs), layer, (x, padding), call_torch),
        ("3, encoder", Encoder(mistake, rngs=rngs), model, (x, padding), call_torch),
    ):
        report = compare(flax, theirs, *inputs, call_torch=call, title=f"stage {title}", **options)
        reports.append(report)
        if not report.passed:
            diagnose(report)
            print(f"{report}\n")
            break
        print(str(report).partition("\n")[0])
    return reports


@dataclass(frozen=True)
class Options:
    """What can be set; the comments are the text of `--help`."""

    mistake: Mistake = "epsilon"  # what the first port gets wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if the mistake is found and the repaired port agrees."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    found = options.mistake == "none"
    if not found:
        print(f"The port with a mistake ({options.mistake}):")
        found = not stages(options.mistake, lanes=["float64"])[-1].passed
    print("The repaired port:")
    agrees = all(report.passed for report in stages("none", ["float64", "float32", "bfloat16", "dropout"]))
    return 0 if found and agrees else 1


if __name__ == "__main__":
    sys.exit(main())
