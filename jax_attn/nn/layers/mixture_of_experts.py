"""Many feed-forward layers, of which each token goes through a few."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import (
    checked,
    require_at_most,
    require_boolean_mask,
    require_known,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.experts import EXPERTS
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.routing import (
    SOFTMAXES,
    choose_experts,
    load_balance_loss,
    router_z_loss,
    within_capacity,
)
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.router_losses import RouterLosses, are_kept, keep_losses
from jax_attn.nn.primitives import Dropout, Linear, uniform_within


class MixtureOfExperts(nnx.Module):
    """`Σ w_e · E_e(x)` over the `top_k` experts that a router chooses for each token, `E_e` as `GatedFeedForward`.

    With `shared_dim` one more expert takes every token: `+ E_shared(x)`, with `shared_gate` `+ σ(x w) E_shared(x)`.
    The router computes in float32 for 16 bits, so that rounding decides less often where a token goes.

    In an `EncoderLayer` or `DecoderLayer` it gets the mask of the layer, where that tells padding, `(b, t)`; what a
    router adds to the loss is had from a whole model by `capture_router_losses`.

    Parameters: `router` kernel `(embed_dim, num_experts)`; `gate_up` kernel `(num_experts, embed_dim,
    2 * hidden_dim)`, the gate's columns first, and `down` kernel `(num_experts, hidden_dim, embed_dim)`;
    `shared.{gate,up,down}` and `shared_gate` kernel `(embed_dim, 1)`. None has a bias.

    Args:
        embed_dim: width of input and output.
        hidden_dim: width inside each expert.
        num_experts: number of experts.
        top_k: number of experts that each token goes through.
        activation: of the experts' gates, as in `GatedFeedForward`.
        softmax: "after" the choice, so that a token's weights add up to 1 (Mixtral; `norm_topk_prob` in Qwen's
            configurations), or "before" it (Qwen2-MoE).
        capacity_factor: an expert takes at most `ceil(capacity_factor * t * top_k / num_experts)` tokens of a
            row of `t`, first choices first and then in order, and the others go without it. None is no limit. A
            limit counts what is in one call: packed texts share it, and a token that is decoded alone has none.
        shared_dim: width inside the shared expert; None is no such expert.
        shared_gate: whether the shared expert's output is weighted (Qwen2-MoE).
        dropout: probability of dropping an output while training.
        implementation: "grouped", where each token goes through its own experts only, or "masked", where all go
            through all: the same numbers.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `activation`, `softmax` or `implementation` is not known, a size is not positive, `top_k` is
            above `num_experts`, `capacity_factor` is not above 0, `shared_gate` without `shared_dim`, or input or
            mask has a wrong shape.

    Source: Shazeer et al. (arXiv 1701.06538); Fedus et al. (arXiv 2101.03961); Jiang et al. (arXiv 2401.04088).
    """

    takes_mask: ClassVar[bool] = True

    logical_axes: ClassVar[LogicalAxes] = {
        "router": ("embed", None),
        "gate_up": ("experts", "embed", None),
        "down": ("experts", None, "embed"),
        "shared_gate": ("embed", None),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int,
        top_k: int = 2,
        activation: str = "silu",
        softmax: str = "after",
        capacity_factor: float | None = None,
        shared_dim: int | None = None,
        shared_gate: bool = False,
        dropout: float = 0.0,
        *,
        implementation: str = "grouped",
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("activation", activation, ACTIVATIONS)
        require_known("softmax", softmax, SOFTMAXES)
        require_known("implementation", implementation, EXPERTS)
        for name, size in (("embed_dim", embed_dim), ("hidden_dim", hidden_dim), ("top_k", top_k)):
            require_positive(name, size)
        require_at_most("top_k", top_k, "num_experts", num_experts)
        if capacity_factor is not None and not capacity_factor > 0:
            raise ValueError(f"capacity_factor must be above 0, or None for no limit, got {capacity_factor}")
        if shared_gate and shared_dim is None:
            raise ValueError("shared_gate=True needs a shared expert: shared_dim is None")
        self.embed_dim, self.num_experts, self.top_k = embed_dim, num_experts, top_k
        self.activation, self.softmax, self.implementation = activation, softmax, implementation
        self.capacity_factor = capacity_factor
        self.dtype = dtype

        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        wide = None if dtype is None else accumulator(dtype)
        self.router = Linear(
            embed_dim, num_experts, bias=False, rngs=rngs, dtype=wide, param_dtype=param_dtype
        )
        self.gate_up = _Kernels((num_experts, embed_dim, 2 * hidden_dim), rngs, param_dtype)
        self.down = _Kernels((num_experts, hidden_dim, embed_dim), rngs, param_dtype)
        self.shared = (
            None if shared_dim is None else GatedFeedForward(embed_dim, shared_dim, activation, **own)
        )
        self.shared_gate = Linear(embed_dim, 1, bias=False, **own) if shared_gate else None
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        mask: Bool[Array, "*b t"] | None = None,
        return_losses: bool = False,
    ) -> Float[Array, "*b t d"] | tuple[Float[Array, "*b t d"], RouterLosses]:
        """Send each token through its experts.

        Args:
            x: `(t, d)` or `(b, t, d)`.
            mask: `(t,)` or `(b, t)`, True = a token, False = padding, which no expert takes and no loss counts.
            return_losses: whether `RouterLosses` are returned beside the output.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        x, gate_up, down = promote_dtype(
            (x, self.gate_up.kernel[...], self.down.kernel[...]), dtype=self.dtype
        )
        logits = self.router(x.astype(accumulator(x.dtype)))
        weights, indices = choose_experts(logits, self.top_k, self.softmax)
        weights = self._limited(weights, indices, mask)

        def flat(array: jax.Array) -> jax.Array:
            return array.reshape(-1, array.shape[-1])

        experts, activation = EXPERTS[self.implementation], ACTIVATIONS[self.activation]
        output = experts(flat(x), gate_up, down, flat(weights), flat(indices), activation).reshape(x.shape)
        if self.shared is not None:
            shared = self.shared(x)
            gate = self.shared_gate
            output = output + (shared if gate is None else jax.nn.sigmoid(gate(x)) * shared)
        output = self.dropout(output)
        if not return_losses and not are_kept(self):
            return output
        losses = RouterLosses(load_balance_loss(logits, indices, mask), router_z_loss(logits, mask))
        if are_kept(self):
            keep_losses(self, losses)
        return (output, losses) if return_losses else output

    def _limited(
        self, weights: Float[Array, "*b t k"], indices: Array, mask: Bool[Array, "*b t"] | None
    ) -> Float[Array, "*b t k"]:
        """The weights, 0 where an expert has no room and where there is no token."""
        if mask is not None:
            weights = jnp.where(mask[..., None], weights, 0)
        if self.capacity_factor is None:
            return weights
        tokens, top_k = weights.shape[-2:]
        capacity = math.ceil(self.capacity_factor * tokens * top_k / self.num_experts)
        return jnp.where(within_capacity(indices, self.num_experts, capacity, mask), weights, 0)


class _Kernels(nnx.Module):
    """The kernels `(num, in_features, out_features)` of `num` linear layers, each drawn as torch draws one."""

    def __init__(self, shape: tuple[int, int, int], rngs: nnx.Rngs, param_dtype: DTypeLike):
        self.kernel = nnx.Param(uniform_within(shape[1] ** -0.5)(rngs.params(), shape, param_dtype))
