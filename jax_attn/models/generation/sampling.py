"""How the next token is chosen from its scores."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.checks import require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.models.generation.logits import keep_min_p, keep_top_k, keep_top_p, penalize_repetition

Setting = Any  # a number, an array, or None where the step is left out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """The likeliest token, or one drawn from the distribution that is left by the steps that are not None.

    In transformers' order: repetition penalty, temperature, top-k, top-p, min-p. The numbers are leaves, so a
    program that was compiled for some serves for others; `top_k`, the size of a sort, is not.

    Attributes:
        temperature: what the logits are divided by; None takes the likeliest.
        top_k: how many tokens are left.
        top_p: what the probabilities of those that are left add up to, at least.
        min_p: how likely those that are left are, as a share of the likeliest.
        repetition_penalty: what the logits of tokens in the text are divided by.
    """

    temperature: Setting = None
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: Setting = None
    min_p: Setting = None
    repetition_penalty: Setting = None

    @classmethod
    def checked(
        cls,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repetition_penalty: float | None,
    ) -> "Sampling":
        """The settings of `generate`, where a temperature of 0 is none.

        Raises:
            ValueError: a setting out of its range, or one that acts on draws beside a temperature of 0.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be 0 (the likeliest token) or above, got {temperature}")
        if top_k is not None:
            require_positive("top_k", top_k)
        for name, share in (("top_p", top_p), ("min_p", min_p)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        if repetition_penalty is not None and not 0 < repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, got {repetition_penalty}")
        if not temperature and any(setting is not None for setting in (top_k, top_p, min_p)):
            raise ValueError("top_k, top_p and min_p act on draws: they need a temperature above 0, got 0")
        shares = (None if number is None else float(number) for number in (top_p, min_p, repetition_penalty))
        return cls(float(temperature) or None, top_k, *shares)

    def __call__(
        self, logits: Float[Array, "b v"], seen: Bool[Array, "b v"] | None, key: Any, step: Array
    ) -> Int[Array, "b"]:
        """The next token of each sequence. Each draws by itself, so a row gets what it would get alone.

        Args:
            logits: `(b, vocab_size)`.
            seen: which tokens its text has, for the repetition penalty; None without.
            key: what is drawn with; None where nothing is.
            step: how many tokens were drawn before.
        """
        logits = self.changed(logits.astype(accumulator(logits.dtype)), seen)
        if self.temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        of_step = jax.random.fold_in(key, step)
        keys = jax.vmap(lambda row: jax.random.fold_in(of_step, row))(jnp.arange(logits.shape[0]))
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def changed(self, logits: Float[Array, "b v"], seen: Bool[Array, "b v"] | None) -> Float[Array, "b v"]:
        """The logits after every step that is not None."""
        if self.repetition_penalty is not None and seen is not None:
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if self.temperature is not None:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = keep_min_p(logits, self.min_p)
        return logits
