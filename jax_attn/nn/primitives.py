"""The leaves that every module is built from, with torch's defaults in place of flax's.

A port of a torch model that calls `nnx.Linear`, `nnx.LayerNorm` or `nnx.Embed` as they come starts from
other weights and other epsilons than the original. These subclasses differ from their NNX parents in
their defaults alone, and take torch's argument names:

==============  ==========================================  =====================================
leaf            torch's default, used here                  NNX's default
==============  ==========================================  =====================================
`Linear`        kernel and bias U(±1/sqrt(d_in))            kernel LeCun normal, bias 0
`Conv`          the same, `d_in` of all that it looks at    the same; padding "SAME", not 0
`Embedding`     N(0, 1), and zeros at `padding_idx`         N(0, 1/features)
`LayerNorm`     eps 1e-5, variance in two passes            eps 1e-6, E[x²] - E[x]² (cancels)
==============  ==========================================  =====================================

`RMSNorm` is a class of its own, because its scale may be counted from 1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import (
    checked,
    require_divisible,
    require_known,
    require_positive,
    require_probability,
)
from jax_attn.functional.dropout import draw_keep_mask
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.normalize import rms_normalize
from jax_attn.functional.sharding import for_product

Initializer = Callable[..., jax.Array]


class Buffer(nnx.Variable[Any]):
    """A constant that belongs to a module: saved and loaded with it, never trained.

    The counterpart of torch's `register_buffer`. It has a type of its own so that
    `nnx.Optimizer(..., wrt=nnx.Param)` and `nnx.grad` pass it by. A checkpoint must hold the same values.
    """


class LoadedBuffer(Buffer):
    """A buffer whose values a checkpoint brings, such as a table that it rounded in its own way."""


class RandomBuffer(LoadedBuffer):
    """A buffer whose values are drawn, such as random features: a checkpoint brings its own."""


def uniform_within(bound: float) -> Initializer:
    """An initialiser that draws from U(-bound, bound), as torch's `nn.init.uniform_`."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound, **kwargs)

    return init


class Linear(nnx.Linear):
    """`y = x @ kernel + bias`, initialised as `torch.nn.Linear`.

    `kernel` is `(in_features, out_features)`: the transpose of torch's `weight`. Unlike NNX's, its bias keeps
    an exact gradient in 16 bits: over 4,096 tokens NNX's is 2% off in bfloat16, this one 0.2%.

    Source: `torch.nn.Linear`.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("in_features", in_features)
        require_positive("out_features", out_features)
        init = uniform_within(in_features**-0.5)
        super().__init__(
            in_features,
            out_features,
            use_bias=bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=init,
            bias_init=init,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """`(..., in_features)` to `(..., out_features)`."""
        x, kernel = self.promote_dtype((inputs, self.kernel[...]), dtype=self.dtype)
        bias = None if self.bias is None else self.bias[...]
        if out_sharding is None:
            kernel, bias, out_sharding = for_product(x, kernel, bias)
        multiply = partial(_product, precision=self.precision, out_sharding=out_sharding)
        return _affine(x, kernel, bias, multiply)


def _affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, multiply: Callable[..., jax.Array]
) -> jax.Array:
    """`multiply(x, kernel) + bias`."""
    if bias is None:
        return multiply(x, kernel)
    if jnp.finfo(x.dtype).bits >= 32:
        return multiply(x, kernel) + bias.astype(x.dtype)
    # In 16 bits the sum is made in float32. Forward, it is rounded once, so that its sign is right and a
    # ReLU lets the same values through. Backward, a bias's gradient adds up over all tokens, and 16 bits
    # would lose more with every one.
    return (_wide_product(x, kernel, multiply) + bias.astype(jnp.float32)).astype(x.dtype)


def _product(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty and jax.typeof(x).sharding.mesh.empty:
        # As rows of one matrix: of those XLA makes a CPU's gradient of the kernel without a transposed copy of
        # what comes from above. On a mesh the axes stay apart, for each may be dealt out in its own way.
        rows = jnp.einsum("ri,io->ro", x.reshape(-1, x.shape[-1]), kernel, **options)
        return rows.reshape(*x.shape[:-1], kernel.shape[-1])
    return jnp.einsum("...i,io->...o", x, kernel, **options)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _wide_product(x: jax.Array, kernel: jax.Array, multiply: Callable[..., jax.Array]) -> jax.Array:
    """The product in the float32 that it is summed in. Its derivative is made of 16-bit products, as ever."""
    return multiply(x, kernel, preferred_element_type=jnp.float32)


@_wide_product.defjvp
def _wide_product_jvp(multiply: Callable[..., jax.Array], primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    return _wide_product(x, kernel, multiply), (multiply(dx, kernel) + multiply(x, dkernel)).astype(
        jnp.float32
    )


class Conv(nnx.Conv):
    """A convolution over the axes before the last, initialised as `torch.nn.Conv1d` and `Conv2d`.

    `kernel` is `(*kernel_size, in_features / groups, out_features)`. Features are the last axis of input and
    output, as everywhere in JAX; torch has them behind the batch.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        kernel_size: length of the kernel along each axis: one number for a sequence, two for an image.
        stride: step along each axis.
        padding: zeros before and after each axis. (Torch's padding of 1 is not "SAME" where the stride is not 1.)
        groups: into how many groups the features fall, each of which sees its own only.
        bias: whether one is added.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `groups` does not divide both numbers of features.

    Source: `torch.nn.Conv2d`.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_divisible("out_features", out_features, "groups", groups)
        if not isinstance(kernel_size, tuple | list) or not kernel_size:
            raise ValueError(f"kernel_size must be a tuple, one length for each axis, got {kernel_size!r}")
        for name, sizes in (("kernel_size", kernel_size), ("stride", stride)):
            for size in sizes if isinstance(sizes, tuple | list) else (sizes,):
                require_positive(name, size)
        inputs = require_divisible("in_features", in_features, "groups", groups) * math.prod(kernel_size)
        init = uniform_within(inputs**-0.5)
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            (stride,) * len(kernel_size) if isinstance(stride, int) else stride,
            padding=((padding, padding),) * len(kernel_size),  # a tuple, so that the module can be hashed
            feature_group_count=groups,
            use_bias=bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=init,
            bias_init=init,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """`(b, *axes, in_features)`, or without `b`, to the same with `out_features`."""
        ndim = len(self.kernel_size) + 1
        if inputs.ndim not in (ndim, ndim + 1) or inputs.shape[-1] != self.in_features:
            axes = ", ".join("thw"[-len(self.kernel_size) :])
            shape = f"{axes}, {self.in_features})"
            raise ValueError(f"inputs must have shape ({shape} or (b, {shape}, got {inputs.shape}")
        x, kernel = self.promote_dtype((inputs, self.kernel[...]), dtype=self.dtype)
        convolve = partial(
            _convolution,
            window_strides=self.strides,
            padding=self.padding,
            feature_group_count=self.feature_group_count,
            out_sharding=out_sharding,
        )
        bias = None if self.bias is None else self.bias[...]
        y = _affine(x if x.ndim > ndim else x[None], kernel, bias, convolve)
        return y if x.ndim > ndim else y[0]


def _convolution(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    axes = "HWD"[: x.ndim - 2]
    layouts = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layouts, **options)


class Embedding(nnx.Embed):
    """A table of `num_embeddings` vectors, drawn from N(0, 1) as `torch.nn.Embedding`.

    Args:
        num_embeddings: number of ids.
        embedding_dim: width of a vector.
        padding_idx: the id of padding: its row starts at zero and gets no gradient by being looked up.
        rngs: source of the initial weights.
        dtype: dtype of the output; None is that of the parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `padding_idx` is outside the table.

    Source: `torch.nn.Embedding`.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "embedding": ("vocab", "embed"),
    }

    @checked
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_embeddings", num_embeddings)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx must be within num_embeddings={num_embeddings}, got {padding_idx}")
        super().__init__(
            num_embeddings,
            embedding_dim,
            dtype=dtype,
            param_dtype=param_dtype,
            embedding_init=jax.nn.initializers.normal(1.0),
            rngs=rngs,
        )
        self.dtype = dtype  # NNX notes down param_dtype for None, and would cast float64 weights back to it
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        if self.padding_idx is not None:
            self.embedding.set_value(self.embedding[...].at[self.padding_idx].set(0))

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Integers of any shape to `(*shape, embedding_dim)`; NaN for an id outside the table."""
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError(f"inputs must be integers, got {inputs.dtype}")
        (table,) = self.promote_dtype((self.embedding[...],), dtype=self.dtype, inexact=False)
        # Features are dealt out over devices that share out the batch: gathered here, or later in all rows.
        table = constrain(table, self.logical_axes["embedding"][0], None)
        out_sharding = _rows_sharding(table, inputs) if out_sharding is None else out_sharding
        rows = table.at[inputs].get(mode="fill", fill_value=jnp.nan, out_sharding=out_sharding)
        if self.padding_idx is None:
            return rows
        return jnp.where((inputs == self.padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _rows_sharding(table: jax.Array, ids: jax.Array) -> NamedSharding | None:
    """Under an explicit mesh, rows lie as the ids do, and their features as the table's; None under no such."""
    of_table, of_ids = (jax.typeof(array).sharding for array in (table, ids))
    for mesh in (of_ids.mesh, of_table.mesh):
        if AxisType.Explicit in (mesh.axis_types or ()):
            break
    else:
        return None
    batch = [*of_ids.spec, *[None] * (ids.ndim - len(of_ids.spec))]
    taken = {name for entry in batch if entry is not None for name in np.atleast_1d(entry)}
    features = of_table.spec[1] if len(of_table.spec) > 1 else None
    free = features is None or taken.isdisjoint(np.atleast_1d(features))
    return NamedSharding(mesh, PartitionSpec(*batch, features if free else None))


class LayerNorm(nnx.LayerNorm):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last axis, as `torch.nn.LayerNorm`.

    The variance is biased, and taken in two passes: NNX's default of one pass cancels where the mean is
    large (an input mean of 1e4 gives an error of 1e3). Without `bias` none is added, as in ModernBERT.

    Source: Ba et al. (arXiv 1607.06450); `torch.nn.LayerNorm`.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "scale": ("norm",),
        "bias": ("norm",),
    }

    @checked
    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("normalized_shape", normalized_shape)
        super().__init__(
            normalized_shape,
            epsilon=eps,
            use_bias=bias,
            dtype=dtype,
            param_dtype=param_dtype,
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """`(..., normalized_shape)` to the same shape."""
        if x.shape[-1:] != (self.num_features,):
            raise ValueError(f"x must have shape (..., {self.num_features}), got {x.shape}")
        return super().__call__(x, mask=mask)


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x²) + eps) * scale` over the last axis; `* (1 + scale)` with `unit_offset`, as Gemma.

    In 16 bits all of it is computed in float32 and rounded once, at the end: the order of `torch.nn.RMSNorm` and
    of Gemma. (Llama rounds before it multiplies with the scale.)

    Parameters: `scale` `(normalized_shape,)`, initially 1, or 0 with `unit_offset`.

    Args:
        normalized_shape: size of the last axis.
        eps: what is added to the mean square. (Torch's default is the epsilon of the dtype.)
        unit_offset: whether the scale is kept as its distance from 1.
        rngs: taken as every module takes them; nothing is drawn.
        dtype: dtype of the output; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `normalized_shape` is not positive, or the last axis of the input is not that long.

    Source: Zhang and Sennrich (arXiv 1910.07467); the offset is of Gemma (arXiv 2403.08295).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "scale": ("norm",),
    }

    @checked
    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-6,
        unit_offset: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("normalized_shape", normalized_shape)
        self.scale = nnx.Param(jnp.full(normalized_shape, 0.0 if unit_offset else 1.0, param_dtype))
        self.eps = eps
        self.unit_offset = unit_offset
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        """`(..., normalized_shape)` to the same shape."""
        if x.shape[-1:] != self.scale.shape:
            raise ValueError(f"x must have shape (..., {self.scale.shape[0]}), got {x.shape}")
        x, scale = promote_dtype((x, self.scale[...]), dtype=self.dtype)
        normalized = rms_normalize(x, self.eps)
        scale = scale.astype(normalized.dtype)
        return (normalized * (1 + scale if self.unit_offset else scale)).astype(x.dtype)


NORMS: dict[str, Callable[..., nnx.Module]] = {
    "layer": LayerNorm,
    "layer_without_bias": partial(LayerNorm, bias=False),
    "rms": RMSNorm,
    "rms_unit_offset": partial(RMSNorm, unit_offset=True),
}


def make_norm(
    kind: str,
    width: int,
    eps: float | None = None,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Any:
    """Build a normalisation by its name.

    Args:
        kind: "layer", "layer_without_bias", "rms" or "rms_unit_offset" (Gemma's `1 + scale`).
        width: size of the axis that is normalised.
        eps: what is added to the variance or mean square; None is the default of the class.
        rngs: as every module takes them.
        dtype: dtype of the output; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `kind` is not known, or `eps` is below 0.
    """
    require_known("norm", kind, NORMS)
    given = {} if eps is None else {"eps": eps}
    return NORMS[kind](width, **given, rngs=rngs, dtype=dtype, param_dtype=param_dtype)


class Dropout(nnx.Dropout):
    """Zeroes each element with probability `p` and scales the rest by `1 / (1 - p)`, while training.

    `module.eval()` turns it off and `module.train()` on, as in torch; a new module is in training mode. What is
    dropped is a hash of the key and of the element's indices (`functional/dropout.py`), the same on every mesh.

    Source: `torch.nn.Dropout`.
    """

    rngs: nnx.RngStream  # NNX has None here too; this one cannot be built without

    @checked
    def __init__(self, p: float = 0.5, *, rngs: nnx.Rngs):
        require_probability("dropout", p)
        super().__init__(p, deterministic=False, rngs=rngs)

    def __call__(
        self,
        inputs: Float[Array, "..."],
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Float[Array, "..."]:
        """Any shape to the same; the other arguments as in `nnx.Dropout`."""
        if (self.deterministic if deterministic is None else deterministic) or self.rate == 0:
            return inputs
        if self.rate == 1:  # 1 / (1 - rate) would make NaN of the gradient
            return jnp.zeros_like(inputs)
        source = self.rngs if rngs is None else rngs
        if isinstance(source, nnx.Rngs):
            source = source[self.rng_collection]
        key = source if isinstance(source, jax.Array) else source()
        shape = list(inputs.shape)
        for axis in self.broadcast_dims:
            shape[axis] = 1
        sharding = None if self.broadcast_dims else jax.typeof(inputs).sharding
        keep = draw_keep_mask(key, self.rate, tuple(shape), sharding)
        return jnp.where(keep, inputs / (1 - self.rate), 0)
