"""`jax-attn verify kernels`: prove each implementation of attention on the device that is here, and time it."""

import itertools
import json as json_text
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn.cli.columns import verdict
from jax_attn.cli.files import require_writable, write_texts
from jax_attn.cli.terminal import tell_written, terminal
from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.reference import reference_attention
from jax_attn.parity.tolerances import NOISE_RATIO

KERNELS = {"cpu": (), "tpu": ("pallas",), "gpu": ("cudnn", "pallas")}
TOKENS = {"cpu": 389}  # elsewhere CHIP_TOKENS: there is more to gain, and to time
CHIP_TOKENS = 2039
BATCH, HEADS, KV_HEADS = 1, 4, 2
WIDTHS, DTYPES = (64, 128), ("bfloat16", "float32")
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"is_causal": True},
    "window": {"is_causal": True, "local_window_size": (100, 0)},
    "lengths": {"key_value_seq_lengths": np.array([301], np.int32)},
}
TURNS = 5
HINT = (
    "A failure here is a fault of jax-attn on this device: pass implementation='xla' until it is mended, and open "
    "an issue with the file of --json. An implementation that passes and is quicker than xla may be named."
)


class Measured(NamedTuple):
    """What was found of one implementation in one call.

    Attributes:
        ratio: the largest distance of output and gradients from the truth, over that of the oracle in the same
            dtype; None where the implementation cannot serve the call.
        milliseconds: of both passes.
        reason: why the call cannot be served.
    """

    implementation: str
    mask: str
    dtype: str
    width: int
    ratio: float | None = None
    milliseconds: float | None = None
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it is as near to the truth as the oracle; what is not served is no failure."""
        return self.reason is not None or (self.ratio is not None and self.ratio <= NOISE_RATIO)


def verify_kernels(json: Path | None = None, tokens: int | None = None) -> int:
    """Print a line for each implementation and call; 0 if all of them passed."""
    require_writable(json)
    console, device = terminal(), jax.devices()[0]
    names = ("xla", "blockwise", *KERNELS.get(device.platform, ()))
    tokens = tokens or TOKENS.get(device.platform, CHIP_TOKENS)
    console.print(f"{device.device_kind}, {tokens} tokens, {HEADS} heads; forward and gradients")
    titles = ("implementation", "mask", "dtype", "width", "noise ratio", "ms", "xla's ms")
    console.print(_line(*titles, "verdict"), style="bold")
    found: list[Measured] = []
    for mask, dtype, width in itertools.product(MASKS, DTYPES, WIDTHS):
        results = measure(names, mask, dtype, width, tokens)
        for each in results:
            numbers = [_number(x) for x in (each.ratio, each.milliseconds, results[0].milliseconds)]
            told = each.reason if each.reason is not None else verdict(each.passed)
            console.print(_line(each.implementation, mask, dtype, str(width), *numbers, told))
        found += results
    failed = sum(not each.passed for each in found)
    console.print(f"\n{len(found) - failed} of {len(found)} passed or are not served. {HINT}")
    if json is not None:
        report = {"device": device.device_kind, "tokens": tokens, "results": [x._asdict() for x in found]}
        write_texts({json: json_text.dumps(report, indent=2)})
        tell_written(console, [json])
    return 1 if failed else 0


def measure(names: tuple[str, ...], mask: str, dtype: str, width: int, tokens: int) -> list[Measured]:
    """Each implementation against the oracle in float64 on CPU, in one call."""
    operands = _operands(dtype, width, tokens)
    truth = _on_cpu(mask, "float64", operands)
    usual = _on_cpu(mask, dtype, operands)
    results = []
    for name in names:
        options: dict[str, Any] = {"implementation": name, **MASKS[mask]}
        run = _both_passes(lambda q, k, v, options=options: dot_product_attention(q, k, v, **options))
        given = [jnp.asarray(x, dtype) for x in operands]
        try:
            with jax.default_matmul_precision("highest"):
                actual = jax.block_until_ready(run(*given))
        except ValueError as error:  # it says so where it cannot serve a call
            results.append(Measured(name, mask, dtype, width, reason=str(error)))
            continue
        ratio = max(_ratio(*x, dtype) for x in zip(actual, usual, truth, strict=True))
        seconds = []
        for _ in range(TURNS):
            started = time.perf_counter()
            with jax.default_matmul_precision("highest"):
                jax.block_until_ready(run(*given))
            seconds.append(time.perf_counter() - started)
        results.append(Measured(name, mask, dtype, width, ratio, 1000 * min(seconds)))
    return results


def _operands(dtype: str, width: int, tokens: int) -> list[np.ndarray]:
    """Query, key, value and the gradient of the output, rounded to the dtype."""
    draw = np.random.default_rng(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    drawn = (draw.standard_normal((BATCH, tokens, n, width)) for n in heads)
    return [np.asarray(x.astype(jnp.dtype(dtype)), np.float64) for x in drawn]


def _on_cpu(mask: str, dtype: str, operands: list[np.ndarray]) -> list[np.ndarray]:
    """Output and gradients of the oracle."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        run = _both_passes(lambda q, k, v: reference_attention(q, k, v, **MASKS[mask]).output)
        return [np.asarray(x, np.float64) for x in run(*(jnp.asarray(x, dtype) for x in operands))]


def _both_passes(attend: Callable[..., Any]) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, d_output: Any) -> Any:
        output, pull_back = jax.vjp(attend, q, k, v)
        return output, *pull_back(d_output)

    return jax.jit(run)


def _ratio(actual: Any, usual: np.ndarray, truth: np.ndarray, dtype: str) -> float:
    """The noise ratio; infinite where anything is not finite."""
    got = np.asarray(actual, np.float64)
    floor = float(jnp.finfo(dtype).eps) * np.linalg.norm(truth)
    ratio = np.linalg.norm(got - truth) / max(np.linalg.norm(usual - truth), floor)
    return float(ratio) if np.isfinite(got).all() else float("inf")


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def _line(*cells: str) -> str:
    widths = (14, 8, 8, 5, 11, 9, 9)
    return "  ".join(
        [*(cell.ljust(n) for cell, n in zip(cells, widths, strict=False)), *cells[len(widths) :]]
    )
