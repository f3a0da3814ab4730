"""The gated delta rule as a layer: a memory of fixed size in place of keys and values."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_boolean_mask,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.delta_rule import chunked_gated_delta_rule, empty_memory, recurrent_gated_delta_rule
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.sharding import explicit_sharding
from jax_attn.nn.attention.attend import call_unbatched
from jax_attn.nn.attention.cache import as_before, require_sizes, require_state
from jax_attn.nn.primitives import Linear, RMSNorm, uniform_within


class DeltaNetCache(NamedTuple):
    """What decoding needs to know of the tokens before.

    Attributes:
        inputs: `(b, conv_size - 1, channels)`, the last inputs of the convolution.
        memory: `(b, num_heads, head_dim, value_head_dim)`.
    """

    inputs: Array
    memory: Array


class GatedDeltaNet(nnx.Module):
    """Linear attention whose memory fades, and is corrected by what each token adds to it.

    `q, k, v = silu(conv(x W))`, the convolution short, causal and of each channel alone; `q` and `k` are
    normalised to length 1, and `q` is divided by `sqrt(head_dim)`. With `beta = σ(x W_beta)` and the decay
    `exp(-exp(A_log) softplus(x W_decay + dt_bias))` of each head, the gated delta rule
    (`functional/delta_rule.py`) gives the heads; the output is `(rms_norm(heads) · silu(x W_gate)) W_out`. Tokens
    come in order, so that no positions are needed.

    Parameters: `q_proj` and `k_proj` kernels `(embed_dim, num_qk_heads * head_dim)`, `v_proj` and `gate_proj`
    `(embed_dim, num_heads * value_head_dim)`, `beta_proj` and `decay_proj` `(embed_dim, num_heads)`, `out_proj`
    `(num_heads * value_head_dim, embed_dim)`, all without bias; `conv` kernel `(conv_size, 1, channels)`, the
    channels being those of q, k and v in this order; `A_log` and `dt_bias` `(num_heads,)`; `norm` scale
    `(value_head_dim,)`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of values' heads, each with a memory.
        num_qk_heads: number of heads of queries and keys; it divides `num_heads`, and None is as many.
        head_dim: width of a query and a key; None is `embed_dim / num_heads`.
        value_head_dim: width of a value; None is `head_dim`.
        conv_size: how many tokens the convolution sees, its own included.
        eps: added to the mean square in the norm.
        chunk_size: how many tokens are computed at once; it changes nothing but the speed.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: heads that do not divide, a size below 1, an input of another width or rank, a mask that is
            not boolean or does not fit, or a cache of other sizes.

    Source: Yang et al. (arXiv 2412.06464); norm, gate and grouped heads as in Qwen3-Next.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "qk_heads"),
        "k_proj": ("embed", "qk_heads"),
        "v_proj": ("embed", "heads"),
        "gate_proj": ("embed", "heads"),
        "beta_proj": ("embed", "heads"),
        "decay_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "conv": ("channels",),
        "A_log": ("heads",),
        "dt_bias": ("heads",),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_qk_heads: int | None = None,
        head_dim: int | None = None,
        value_head_dim: int | None = None,
        conv_size: int = 4,
        eps: float = 1e-6,
        chunk_size: int = 64,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_qk_heads = num_heads if num_qk_heads is None else num_qk_heads
        self.head_dim = _head_dim(embed_dim, num_heads, head_dim)
        self.value_head_dim = self.head_dim if value_head_dim is None else value_head_dim
        self.chunk_size = chunk_size
        self.cache_dtype = param_dtype if dtype is None else dtype
        require_divisible("num_heads", num_heads, "num_qk_heads", self.num_qk_heads)
        require_positive("value_head_dim", self.value_head_dim)
        require_positive("conv_size", conv_size)
        require_positive("chunk_size", chunk_size)

        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, bias=False, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.key_width = self.num_qk_heads * self.head_dim
        self.value_width = num_heads * self.value_head_dim
        self.q_proj = linear(embed_dim, self.key_width)
        self.k_proj = linear(embed_dim, self.key_width)
        self.v_proj = linear(embed_dim, self.value_width)
        self.gate_proj = linear(embed_dim, self.value_width)
        self.beta_proj = linear(embed_dim, num_heads)
        self.decay_proj = linear(embed_dim, num_heads)
        self.out_proj = linear(self.value_width, embed_dim)
        channels = 2 * self.key_width + self.value_width
        self.conv = _ShortConv(channels, conv_size, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.norm = RMSNorm(self.value_head_dim, eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        # The decay's rate and the time that a token takes, as in Mamba 2: from 1 to 16, and from 0.001 to 0.1.
        rates = jax.random.uniform(rngs.params(), (num_heads,), param_dtype, 1, 16)
        times = jnp.exp(
            jax.random.uniform(rngs.params(), (num_heads,), param_dtype, jnp.log(1e-3), jnp.log(0.1))
        )
        self.A_log = nnx.Param(jnp.log(rates))
        self.dt_bias = nnx.Param(times + jnp.log(-jnp.expm1(-times)))  # softplus gives the time back

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        mask: Bool[Array, "*b t"] | None = None,
        *,
        cache: DeltaNetCache | None = None,
    ) -> Any:
        """Each token sees itself and those before it.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            mask: True = a token, False = padding, which changes nothing wherever it stands: its output is 0.
            cache: what `init_cache` or the last call gave: `x` is what comes after it.

        Returns:
            `(b, t, embed_dim)`, with a cache `(output, cache)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        if x.ndim == 2:
            return call_unbatched(self, x, cache, {}, mask=mask)
        if cache is not None:
            require_state(cache, jax.eval_shape(lambda: self.init_cache(x.shape[0])))
        order: Any = None
        if mask is not None:  # the convolution goes from token to token: padding is put behind them
            order = jnp.argsort(~mask, axis=1, stable=True)[..., None]
            mask = jnp.take_along_axis(mask[..., None], order, axis=1)
            x = jnp.where(mask, jnp.take_along_axis(x, order, axis=1), 0)

        tokens = None if mask is None else mask.sum(axis=1)
        before = None if cache is None else cache.inputs
        # Each by itself: side by side, features that are dealt out over devices would have to be moved.
        inputs = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        starts = (0, self.key_width, 2 * self.key_width)
        mixed = [self.conv(part, before, tokens, at) for part, at in zip(inputs, starts, strict=True)]
        query, key, value = (jax.nn.silu(part) for part, _ in mixed)
        wide = accumulator(x.dtype)
        query, key = (_unit(self._heads(part, self.num_qk_heads).astype(wide)) for part in (query, key))
        repeats, there = self.num_heads // self.num_qk_heads, explicit_sharding(query)
        shared = partial(jnp.repeat, repeats=repeats, axis=2, out_sharding=there)
        rate = jnp.exp(self.A_log[...].astype(wide))
        step = jax.nn.softplus(self.decay_proj(x).astype(wide) + self.dt_bias[...].astype(wide))
        beta = jax.nn.sigmoid(self.beta_proj(x).astype(wide))
        if mask is not None:  # padding neither fades the memory nor writes to it
            step, beta = jnp.where(mask, step, 0), jnp.where(mask, beta, 0)
        operands = (
            shared(query) * self.head_dim**-0.5,
            shared(key),
            self._heads(value, self.num_heads),
            -rate * step,
            beta,
        )
        memory = None if cache is None else cache.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_gated_delta_rule(*operands, memory)
        else:
            heads, memory = chunked_gated_delta_rule(*operands, memory, self.chunk_size)
        gate = jax.nn.silu(self._heads(self.gate_proj(x), self.num_heads).astype(wide))
        heads = (self.norm(heads) * gate).astype(heads.dtype)
        output = self.out_proj(heads.reshape(*x.shape[:2], self.value_width))
        if order is not None:
            output = jnp.take_along_axis(output, jnp.argsort(order, axis=1), axis=1)
        if cache is None:
            return output
        last = jnp.concatenate([last for _, last in mixed], axis=-1)
        return output, as_before(DeltaNetCache(last, memory), cache)

    def init_cache(
        self, batch: int, length: int | None = None, dtype: DTypeLike | None = None
    ) -> DeltaNetCache:
        """The state before the first token: zeros, of one size for any `length`.

        `dtype` is what is computed in; the memory is float32 at least.
        """
        dtype = dtype or self.cache_dtype
        require_sizes(batch, length, dtype)
        channels = 2 * self.key_width + self.value_width
        inputs = jnp.zeros((batch, self.conv.size - 1, channels), dtype)
        memory = empty_memory(batch, self.num_heads, self.head_dim, self.value_head_dim, jnp.dtype(dtype))
        return DeltaNetCache(inputs, memory)

    def _heads(self, features: Array, heads: int) -> Array:
        """Neighbouring features make up a head."""
        return features.reshape(*features.shape[:2], heads, features.shape[-1] // heads)


def _head_dim(embed_dim: int, num_heads: int, head_dim: int | None) -> int:
    """Return `head_dim`, or `embed_dim / num_heads` for None."""
    if head_dim is None:
        return require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
    require_positive("num_heads", num_heads)
    require_positive("head_dim", head_dim)
    return head_dim


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


class _ShortConv(nnx.Conv):
    """A causal convolution of each channel alone: `y[t] = Σ_i kernel[i] x[t - size + 1 + i]`."""

    def __init__(
        self, channels: int, size: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None, param_dtype: DTypeLike
    ):
        super().__init__(
            channels,
            channels,
            (size,),
            padding="VALID",
            feature_group_count=channels,
            use_bias=False,
            kernel_init=uniform_within(size**-0.5),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.size = size

    # A few shifted products: XLA's CPU takes long over a convolution with as many groups as channels.
    def __call__(  # ty: ignore[incompatible-method-override]
        self, x: Array, before: Array | None, tokens_of_each: Array | None = None, first: int = 0
    ) -> tuple[Array, Array]:
        """The output, and the last `size - 1` inputs, which come before the next.

        Args:
            x: some of the channels, `(b, t, c)`.
            before: `(b, size - 1, channels)`, the inputs before; None is zeros.
            tokens_of_each: `(b, 1)`, how many of a sequence count, where others follow.
            first: the first channel of `x`.
        """
        tokens, past, here = x.shape[1], self.size - 1, slice(first, first + x.shape[2])
        x, kernel = self.promote_dtype((x, self.kernel[...][..., here]), dtype=self.dtype)
        if before is None:
            inputs = jnp.pad(x, [(0, 0), (past, 0), (0, 0)])
        else:
            inputs = jnp.concatenate([before[..., here].astype(x.dtype), x], axis=1)
        wide = inputs.astype(accumulator(x.dtype))
        y = sum(wide[:, i : i + tokens] * kernel[i, 0].astype(wide.dtype) for i in range(self.size))
        last = inputs[:, tokens:]
        if tokens_of_each is not None:
            last = jnp.take_along_axis(inputs, (tokens_of_each + jnp.arange(past))[..., None], axis=1)
        return y.astype(x.dtype), last
