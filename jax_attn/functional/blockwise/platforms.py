"""The kernels of a platform, in the form of `serial.py` and `parallel.py`; asked only when lowering for it."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.blockwise import parallel
from jax_attn.functional.blockwise.plan import FULL, PARTIAL, Pattern
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Mod, Terms, combine, partition

Saved = tuple[Array, Array]  # output and log-sum-exp
# Of query, key, value and terms; with what was saved it is differentiated without a second forward pass.
Attend = Callable[[Array, Array, Array, Terms, Saved | None], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class PlatformKernels:
    """Attention by the kernels of a platform, or side by side where they cannot serve a call and nobody named them.

    Attributes:
        platform: "tpu", "cuda" or another.
        name: which kernel was asked for; None is any that serves.
        statistics: whether log-sum-exp and largest score are asked for.
        whole: whether the program sees the whole of its arrays, and knows how large they are.
    """

    platform: str
    name: str | None
    statistics: bool
    whole: bool = True

    def forward(
        self, query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float
    ) -> tuple[Array, Array, Array]:
        """As `parallel.forward`."""
        attend = self._attend(query, key, value, terms, pattern, scale)
        if attend is None:
            return parallel.forward(query, key, value, terms, pattern, scale)
        return attend(query, key, value, terms, None)

    def backward(
        self,
        query: Array,
        key: Array,
        value: Array,
        terms: Terms,
        pattern: Pattern,
        scale: float,
        output: Array,
        lse: Array,
        d_output: Array,
        d_lse: Array,
    ) -> tuple[Any, ...]:
        """As `parallel.backward`."""
        attend = self._attend(query, key, value, terms, pattern, scale)
        if attend is None:
            saved = (output, lse, d_output, d_lse)
            return parallel.backward(query, key, value, terms, pattern, scale, *saved)
        asked = 2 if self.statistics else 1
        outputs, operands = _differentiable(attend, query, key, value, terms, (output, lse))
        return jax.vjp(lambda *x: outputs(*x)[:asked], *operands)[1]((d_output, d_lse)[:asked])

    def _attend(
        self, query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float
    ) -> Attend | None:
        """A kernel that serves the call, or None.

        Raises:
            ValueError: the kernel that was asked for cannot serve it.
        """
        if self.name == "blockwise":
            return None
        call = (query, key, value, terms, pattern, scale)
        found: Attend | str
        if terms.dropout is not None:
            found = "it does not drop weights"
        elif terms.origin is not None:
            found = "its mods count from 0"
        elif not self.whole and self.name != "cudnn":  # which jax.nn divides by itself
            found = "a kernel needs sizes that are known, and XLA cannot divide it (jax.shard_map can)"
        elif self.platform == "tpu" and self.name in (None, "pallas"):
            found = _on_tpu(*call, self.statistics)
        elif self.platform == "cuda" and self.name == "pallas":
            found = _by_triton(*call)
        elif self.platform == "cuda":
            if self.statistics and self.name is None:
                found = "its log-sum-exp is as coarse as the operands, and has no gradient"
            else:
                found = _by_cudnn(*call)
        else:
            runs_on = {"pallas": "its kernels are for TPU and GPU", "cudnn": "it runs on NVIDIA GPUs"}
            found = f"{runs_on.get(self.name or '')}, not on {self.platform}"
        if not isinstance(found, str):
            return found
        if self.name is not None:
            raise ValueError(f"implementation={self.name!r} cannot serve this call: {found}")
        return None


def lowering_for(platform: str) -> AbstractContextManager[Any]:
    """Lower kernels for a TPU where there is none: Mosaic asks the device for the layout of its tiles."""
    mesh = jax.sharding.get_abstract_mesh()
    if platform != "tpu" or mesh.abstract_device is not None:
        return nullcontext()
    from jax.experimental.pallas import tpu

    if tpu.is_tpu_device():
        return nullcontext()
    chip = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    sizes, names, kinds = mesh.axis_sizes, mesh.axis_names, mesh.axis_types
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh(sizes, names, axis_types=kinds, abstract_device=chip)
    )


def _differentiable(
    attend: Attend, query: Array, key: Array, value: Array, terms: Terms, saved: Saved | None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`attend` as a function of what has a gradient, and these operands."""
    differentiable, constant = partition(terms)

    def outputs(query: Array, key: Array, value: Array, differentiable: Any) -> tuple[Array, Array, Array]:
        return attend(query, key, value, combine(differentiable, constant), saved)

    return outputs, (query, key, value, differentiable)


class _Words(NamedTuple):
    """A call's terms as arguments of the kernels."""

    score_mod: Callable[..., Array] | None
    mask: Any
    softcap: float | None


def _words(terms: Terms, pattern: Pattern, lengths: tuple[int, int]) -> _Words:
    from jax_attn.functional.kernels.visits import MaskTerms

    score_mod: Callable[..., Array] | None = terms.score_mod
    if terms.bias is not None:
        score_mod = _WithBias(terms.score_mod, terms.bias)
    if terms.mask_mod is not None:
        return _Words(score_mod, _block_mask(terms.mask_mod, pattern, lengths), terms.softcap)
    options = _options(terms)
    del options["bias"]
    return _Words(score_mod, MaskTerms(**options), terms.softcap)


def _options(terms: Terms) -> dict[str, Any]:
    """The terms as arguments of `dot_product_attention`."""
    before, after = terms.band
    segments = terms.segment_ids
    return {
        "bias": terms.bias,
        "mask": terms.mask,
        "is_causal": after == 0,
        "local_window_size": None if before is None or after is None else (before, after),
        "query_seq_lengths": None if terms.query_seq_lengths is None else terms.query_seq_lengths[:, 0, 0, 0],
        "key_value_seq_lengths": (
            None if terms.key_value_seq_lengths is None else terms.key_value_seq_lengths[:, 0, 0, 0]
        ),
        "segment_ids": None if segments is None else (segments[0][:, 0, :, 0], segments[1][:, 0, 0, :]),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _WithBias:
    """`score_mod(score) + bias[b, h, q_idx, kv_idx]`."""

    score_mod: Mod | None
    bias: Array

    def __call__(self, score: Array, *place: Array) -> Array:
        entry = self.bias[tuple(0 if n == 1 else at for at, n in zip(place, self.bias.shape, strict=True))]
        return (score if self.score_mod is None else self.score_mod(score, *place)) + entry.astype(
            score.dtype
        )


def _block_mask(mask_mod: Mod, pattern: Pattern, lengths: tuple[int, int]) -> BlockMask:
    def lists(chosen: Any) -> tuple[Any, Any]:
        xp = np if isinstance(chosen, np.ndarray) else jnp
        order = xp.argsort(~chosen, axis=-1, stable=True)  # whole: a block mask tells its columns from them
        return chosen.sum(-1).astype(np.int32), order.astype(np.int32)

    partial, full = lists(pattern.grid == PARTIAL), lists(pattern.grid == FULL)
    return BlockMask(lengths, *partial, *full, BLOCK_SIZE=pattern.block, mask_mod=mask_mod)


def _on_tpu(
    query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float, statistics: bool
) -> Attend | str:
    from jax_attn.functional.kernels.tpu import tpu_attention, why_not_tpu

    lengths = (query.shape[1], key.shape[1])
    words = _words(terms, pattern, lengths)
    options: dict[str, Any] = {"scale": scale, "softcap": words.softcap, "residuals": statistics}
    if reason := why_not_tpu(query, key, value, words.score_mod, words.mask, **options):
        return reason

    def attend(
        query: Array, key: Array, value: Array, terms: Terms, saved: Saved | None
    ) -> tuple[Array, Array, Array]:
        words = _words(terms, pattern, lengths)
        return _whole(tpu_attention(query, key, value, words.score_mod, words.mask, **options, saved=saved))

    return attend


def _by_triton(
    query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float
) -> Attend | str:
    from jax_attn.functional.kernels.gpu import triton_attention, why_not_triton

    lengths = (query.shape[1], key.shape[1])
    words = _words(terms, pattern, lengths)
    options: dict[str, Any] = {"scale": scale, "softcap": words.softcap}
    if reason := why_not_triton(query, key, value, words.score_mod, words.mask, **options):
        return reason

    def attend(
        query: Array, key: Array, value: Array, terms: Terms, saved: Saved | None
    ) -> tuple[Array, Array, Array]:
        words = _words(terms, pattern, lengths)
        return _whole(
            triton_attention(query, key, value, words.score_mod, words.mask, **options, saved=saved)
        )

    return attend


def _by_cudnn(
    query: Array, key: Array, value: Array, terms: Terms, pattern: Pattern, scale: float
) -> Attend | str:
    from jax_attn.functional.kernels.cudnn import cudnn_attention, why_not_cudnn

    if terms.score_mod is not None or terms.mask_mod is not None:
        return "it knows no mods"
    if terms.softcap is not None or terms.segment_ids is not None:
        return "it knows no softcap and no segment_ids"
    if reason := why_not_cudnn(query, key, value, scale=scale, **_options(terms)):
        return reason

    def attend(
        query: Array, key: Array, value: Array, terms: Terms, _: Saved | None
    ) -> tuple[Array, Array, Array]:
        options = _options(terms)
        del options["segment_ids"]
        output, lse = cudnn_attention(query, key, value, scale=scale, **options)
        return output, lse, jnp.zeros_like(lse)

    def gradients(query: Array, key: Array, value: Array, terms: Terms) -> Any:
        outputs, operands = _differentiable(attend, query, key, value, terms, None)
        output, pull_back = jax.vjp(lambda *x: outputs(*x)[0], *operands)
        return pull_back(output)

    try:
        jax.eval_shape(gradients, query, key, value, terms)
    except Exception as error:  # cuDNN is looked for while tracing, and its absence has no type of its own
        return f"it is not there: {error}"
    return attend


def _whole(result: Any) -> tuple[Array, Array, Array]:
    """Output, log-sum-exp and largest score; zeros for what was not asked for."""
    output, lse, peak = result
    wide = accumulator(output.dtype)
    zeros = jnp.zeros(output.shape[:-1], wide)
    return output, zeros if lse is None else lse, zeros if peak is None else jax.lax.stop_gradient(peak)
