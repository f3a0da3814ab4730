"""A picture of who attends to whom, computed by a row of the catalogue on its own inputs."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_attn
from jax_attn.catalogue import CATALOGUE, Twin
from jax_attn.nn import capture_attention_weights
from jax_attn.parity.cases import Case

ROOMS = ("from_scratch.", "nn.attention.")  # layers and models are built from these
KEPT = Path(".cache/pictures.json")  # all of them take minutes
HEADS = 2  # side by side: enough to show that heads differ
SHADES = 5
SIDE = 8  # of a cell, in pixels
GAP = 1  # between heads, in cells


def pictures(path: Path = KEPT) -> dict[str, str | None]:
    """Each row's picture, kept in a file until any of the code changes."""
    code = _digest()
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept.get("code") != code:
        kept = {"code": code, "pictures": {name: picture(twin) for name, twin in CATALOGUE.items()}}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(kept), encoding="utf-8")
    return kept["pictures"]


def _digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(Path(jax_attn.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def picture(twin: Twin) -> str | None:
    """An SVG of the weights of a row's first call, or None if it has none: a square a pair, queries down."""
    found = pattern(twin) if twin.where.startswith(ROOMS) else None
    return None if found is None else svg(found, _described(twin, found))


def pattern(twin: Twin) -> np.ndarray | None:
    """The weights `(N, T, S)` of one batch entry, or where a module gives none, how far each token reaches.

    That is the norm of the derivative of each output by each input, `(1, T, T)`: zero where nothing is seen.
    """
    module, case = twin.flax(), _on_device(twin.cases()[0])
    module.eval()
    output, captured = capture_attention_weights(module)(*case.args, **case.kwargs)
    if captured:
        return _one_entry(next(iter(captured.values())))
    if isinstance(output, tuple):
        return _one_entry(output[-1]) if _are_weights(output[-1]) else None
    (x, *_) = case.args
    return _reach(module, case) if x.ndim == 3 else None


def _reach(module: nnx.Module, case: Case) -> np.ndarray:
    x, *others = case.args
    entry = len(x) // 2

    def output(tokens: jax.Array) -> jax.Array:
        return module(x.at[entry].set(tokens), *others, **case.kwargs)[entry]

    return np.linalg.norm(np.asarray(jax.jit(jax.jacobian(output))(x[entry])), axis=(1, 3))[None]


def _one_entry(weights: Any) -> np.ndarray:
    *batch, heads, queries, keys = (
        np.shape(weights) if np.ndim(weights) > 3 else (len(weights), 1, *np.shape(weights)[1:])
    )
    return np.reshape(weights, (-1, heads, queries, keys))[math.prod(batch) // 2, :HEADS]


def _are_weights(output: Any) -> bool:
    return output is not None and np.allclose(np.sum(output, -1), 1, atol=1e-3)


def _on_device(case: Case) -> Case:
    def cast(value: Any) -> Any:
        return jnp.asarray(value) if isinstance(value, np.ndarray) else value

    arguments = {name: cast(value) for name, value in case.kwargs.items()}
    return Case(case.name, tuple(map(cast, case.args)), arguments)


def svg(weights: np.ndarray, label: str) -> str:
    """Squares in a few shades, in the colours of the page; what is exactly zero stays empty.

    Args:
        weights: `(N, T, S)`; each head is drawn on its own scale.
        label: what a reader is told who does not see it.
    """
    heads, queries, keys = weights.shape
    width = heads * (keys + GAP) - GAP
    parts = []
    for head, matrix in enumerate(weights):
        left = head * (keys + GAP)
        size = np.abs(matrix) / max(np.abs(matrix).max(), np.finfo(np.float32).tiny)
        shade = np.where(matrix == 0, 0, np.clip(np.ceil(size * SHADES), 1, SHADES)).astype(int)
        parts.append(f'<path class="empty" d="M{left} 0h{keys}v{queries}h-{keys}z"/>')
        for level in range(1, SHADES + 1):
            cells = "".join(f"M{left + key} {query}h1v1h-1z" for query, key in np.argwhere(shade == level))
            if cells:
                parts.append(f'<path fill-opacity="{level / SHADES:g}" d="{cells}"/>')
    return (
        f'<svg class="pattern" role="img" aria-label="{label}" viewBox="0 0 {width} {queries}" '
        f'width="{width * SIDE}" height="{queries * SIDE}">{"".join(parts)}</svg>'
    )


def _described(twin: Twin, weights: np.ndarray) -> str:
    heads, queries, keys = weights.shape
    shown = f"{heads} heads, " if heads > 1 else ""
    return (
        f"{twin.name}: {shown}{queries} queries by {keys} keys, {np.mean(weights != 0):.0%} of the pairs seen"
    )
