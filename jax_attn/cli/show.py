"""`jax-attn show`: pictures of what a model's heads look at, in one page and as PNG."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from flax import nnx

from jax_attn.cli.files import require_outputs, write_texts
from jax_attn.cli.show_translator import is_translator, record_translation
from jax_attn.cli.terminal import tell_written, terminal
from jax_attn.cli.user_file import load_port, run_code
from jax_attn.parity.cases import Case
from jax_attn.parity.port import Port
from jax_attn.parity.recorded.files import TorchTrace
from jax_attn.parity.runners.torch_keys import names_between
from jax_attn.parity.text import count
from jax_attn.visualize.capture import record_attention
from jax_attn.visualize.images import record_image
from jax_attn.visualize.page import AttentionPage, View
from jax_attn.visualize.png import save_png
from jax_attn.visualize.record import AttentionRecord, AttentionStack
from jax_attn.visualize.texts import SENTENCE, checkpoint_folder, record_text
from jax_attn.visualize.torch_weights import torch_attention_weights
from jax_attn.weights.state_dict import load_state_dict

TORCH = "torch"  # the other thing that --against may be is the folder of a recording


def show(
    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = None,
    /,
    *,
    pair: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None,
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    module: Annotated[str | None, tyro.conf.arg(metavar="FILE.py[:function]")] = None,
    image: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    against: Annotated[str | None, tyro.conf.arg(metavar="torch|DIR")] = None,
    layer: int | None = None,
    head: int | None = None,
    view: View = "head",
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.html")] = Path("attention.html"),
    png: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> int:
    """Show which tokens a model's heads look at: one page that needs no network, to be opened in a browser.

        jax-attn show "The animal didn't cross the street because it was too tired."
        jax-attn show "How old are you?" --pair "What is your age?" --against torch
        jax-attn show --checkpoint my-vit --image cat.jpg --png heatmaps

    The model is the sample encoder, all-MiniLM-L6-v2; a checkpoint's folder, such as a training writes; or a module
    of your own, by a function as `jax-attn diff` takes it.

    Args:
        text: what the model reads; a sentence of ours where there is none.
        pair: a second text; in an encoder-decoder what the decoder reads, which otherwise writes it itself.
        checkpoint: a folder of any family, with its `tokenizer.json`, or of a training; for images a ViT or a
            DINOv2.
        module: a Python file and the function in it, which returns a Flax module and its inputs.
        image: the file of an image, for a model that takes images.
        against: also run torch's twin, or the torch module of `--module`, and show both and the difference; for
            `--module` also what `jax-attn trace` recorded in that folder, on its inputs and without torch.
        layer: this layer alone.
        head: this head alone, of each layer.
        view: what is open first: lines between tokens, all heads, a query's score by dimension, or the matrix.
        out: the page.
        png: also draw heatmaps into this folder, a PNG for each layer.
    """
    _require_one_source(text, pair, checkpoint, module, image)
    _require_against(against, module)
    require_outputs({"--out": out}, [path for path in (image,) if path is not None])
    if png is not None and png.exists() and not png.is_dir():
        raise ValueError(f"--png must be a folder, got the file {png}")
    with_torch = against == TORCH
    if module is not None:
        record = _of_module(module, against)
    elif image is not None:
        record = record_image(image, checkpoint=checkpoint or "", against_torch=with_torch)
    elif checkpoint is not None and is_translator(checkpoint_folder(checkpoint)):
        record = record_translation(checkpoint, text or SENTENCE, pair, with_torch)
    else:
        record = record_text(text or SENTENCE, pair, checkpoint=checkpoint, against_torch=with_torch)
    record = record.select(None if layer is None else [layer], None if head is None else [head])
    first = record.stacks[0]
    page = AttentionPage(
        record, view, first.layers[0].number, first.heads[0] if len(first.heads) == 1 else None
    )
    write_texts({out: page.html})
    pictures = [] if png is None else save_png(record, png)
    console = terminal()
    for stack in record.stacks:
        console.print(_described(stack, record.other), markup=False)
    tell_written(console, (out, *pictures))
    return 0


def _require_one_source(
    text: str | None, pair: str | None, checkpoint: Path | None, module: str | None, image: Path | None
) -> None:
    """Raise ValueError where what is given does not go together."""
    if module is not None:
        given = {"a text": text, "--pair": pair, "--checkpoint": checkpoint, "--image": image}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"--module brings its own model and inputs: it cannot be given with {name}")
    if image is not None:
        if text is not None or pair is not None:
            raise ValueError("a model looks at an image or reads a text: give one of them")
        if checkpoint is None:
            raise ValueError("--image needs --checkpoint DIR, the folder of a model that takes images")
        if not image.is_file():
            raise FileNotFoundError(f"there is no file {image}")
    if text is not None and not text.strip():
        raise ValueError("the text must not be empty")


def _require_against(against: str | None, module: str | None) -> None:
    """Raise ValueError unless it is torch, or for a module a recording."""
    if against in (None, TORCH):
        return
    if not Path(against).is_dir():
        raise ValueError(f"--against must be torch or the folder of a recording, got {against!r}")
    if module is None:
        raise ValueError("--against DIR needs --module FILE.py: a checkpoint is shown against torch")


class _Called(nnx.Module):
    """A module that is called by a function of the user's."""

    def __init__(self, module: nnx.Module, call: Any):
        self.module = module
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self.module, *args, **kwargs)


def _of_module(place: str, against: str | None) -> AttentionRecord:
    """The record of the module that the user's function returns, in evaluation mode.

    Raises:
        ValueError: it does not go together, or a module raises: what, and in which line.
    """
    port = load_port(place, "flax", *(["torch"] if against == TORCH else []))
    file = Path(place if Path(place).exists() else place.rpartition(":")[0])
    if against in (None, TORCH):
        case, other = port.case, None if against is None else _torch_weights(port, file)
    else:
        case, other = _recorded(port, Path(against))
    args, kwargs = case.args, case.kwargs
    if not (args or kwargs):
        raise ValueError(f"{place} returned no inputs, and the module has to be called with some")
    port.flax.eval()
    model = port.flax if port.call_flax is None else _Called(port.flax, port.call_flax)
    first = next(iter((*args, *kwargs.values())))
    ids = np.asarray(first) if hasattr(first, "dtype") else np.zeros(0)
    tokens = [str(each) for each in ids[0]] if ids.ndim == 2 and ids.dtype.kind in "iu" else None
    title = port.title or type(port.flax).__name__
    run = partial(record_attention, model, *args, tokens=tokens, title=title, other=other, **kwargs)
    return run_code(file, "in a call of the Flax module", run)


def _torch_weights(port: Port, file: Path) -> dict[str, list[np.ndarray]]:
    """What the torch module's attentions give; both sides get the weights that the port names."""
    port.torch.eval()
    _load(port, port.torch)
    call, case = port.call_torch, port.case
    run = partial(torch_attention_weights, port.torch, *case.args, call=call, **case.kwargs)
    return run_code(file, "in a call of the torch module", run)


def _recorded(port: Port, folder: Path) -> tuple[Case, dict[str, list[np.ndarray]]]:
    """The recorded call, and what torch's attentions gave in it; Flax gets the recorded weights."""
    recorded = TorchTrace.load(folder)
    if not recorded.attention:
        raise ValueError(f"{folder} holds no attention weights: nothing that was recorded gave any")
    _load(port, recorded.module)
    return recorded.case, recorded.attention


def _load(port: Port, module: Any) -> None:
    """Torch's weights, or Flax's own where the port says None."""
    if port.weights == "torch":
        load_state_dict(port.flax, module.state_dict(), names=names_between(port.flax, module, port.names))
    elif port.weights == "flax":
        raise ValueError("show loads torch's weights into flax: weights must be 'torch' or None, got 'flax'")


def _described(stack: AttentionStack, other: str) -> str:
    """What there is of a stack, and how far the frameworks are apart."""
    tokens = f"{len(stack.queries)} x {len(stack.keys)} tokens"
    said = f"{stack.name}: {count(len(stack.layers), 'layer')} of {count(len(stack.heads), 'head')}, {tokens}"
    if not other:
        return said
    apart = max(each.apart for each in stack.layers)
    return f"{said}; flax and {other} differ by at most {apart:.1e}"
