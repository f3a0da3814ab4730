"""The keys and values of tokens that were seen, kept for those that come."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.checks import require_floating, require_positive
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places

Leaf = Any  # an array, or what a transformation of trees puts in its place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values by position, for each sequence on its own: a plain value.

    Position `p` lies in slot `p`, or in slot `p mod L` where the cache is rolling. Padding is not kept, wherever it
    stands, so a row holds what it would hold alone. To reorder beams, index the rows of every leaf.

    A step is one program at every position, and takes the same time at each. Only a cache of more than 2^19 numbers
    is read, on one CPU device, as far as it is filled, by stretches of that many: there a token costs less the
    earlier it comes.

    Attributes:
        key: `(B, L, K, H)`, rotated already.
        value: `(B, L, K, Hv)`, of a width of its own in latent attention.
        length: `(B,)`, how many tokens of each sequence were seen.
        rolling: whether the newest token takes the place of the oldest.
        owner: the class of attention whose keys and values these are; None is not said, and goes with any.
    """

    key: Leaf
    value: Leaf
    length: Leaf
    rolling: bool = dataclasses.field(default=False, metadata={"static": True})
    owner: str | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def empty(
        cls,
        owner: Any,
        batch: int,
        length: int,
        heads: int,
        widths: tuple[int, int],
        dtype: DTypeLike,
        window: int | None = None,
    ) -> "KVCache":
        """A cache of an attention for `length` tokens of `batch` sequences; `widths` are of a key and a value.

        With a window it rolls, and holds no more than that.
        """
        require_sizes(batch, length, dtype)
        rolling = window is not None and window < length
        size = window if rolling else length
        key, value = (jnp.zeros((batch, size, heads, width), dtype) for width in widths)
        return cls(key, value, jnp.zeros(batch, jnp.int32), rolling, name_of(owner))

    @property
    def size(self) -> int:
        """How many tokens it holds."""
        return self.key.shape[1]

    @property
    def most(self) -> int | None:
        """How many tokens a text may have in it; None is any number."""
        return None if self.rolling else self.size

    def check(
        self,
        owner: Any,
        batch: int,
        tokens: int,
        heads: int,
        widths: tuple[int, int],
        window: int | None,
    ) -> None:
        """Raise ValueError where the cache is for another batch or module, or `tokens` more do not fit.

        Under `jit` it is not known how full it is: there, what does not fit is not kept.
        """
        check_kept(self, owner, batch, heads, widths)
        self.check_room(tokens, window)

    def check_room(self, tokens: int, window: int | None) -> None:
        """Raise ValueError where it keeps too few tokens for a window, or `tokens` more do not fit."""
        if self.rolling and (window is None or window > self.size):
            raise ValueError(
                f"the cache holds the last {self.size} tokens alone: too few for window={window}"
            )
        if self.rolling or isinstance(self.length, Tracer):
            return
        longest = int(self.length.max())
        if longest + tokens > self.size:
            raise ValueError(
                f"the cache is for {self.size} tokens: {longest} are in it, and {tokens} do not fit"
            )

    def next_positions(self, batch: int, tokens: int, real: Bool[Array, "B T"] | None) -> Int[Array, "B T"]:
        """The positions `(batch, tokens)` of the next tokens, counted without padding, which gets -1."""
        return next_positions(self.length, tokens, real)

    def append(
        self, key: Float[Array, "B T K H"], value: Float[Array, "B T K Hv"], positions: Int[Array, "B T"]
    ) -> tuple["KVCache", Array, Array, Places]:
        """Keep tokens, and say what their queries look at.

        What would not fit is not kept (see `check`).

        Returns:
            the new cache, all keys and values that are needed, and the places of queries and keys.
        """
        tokens, seen = key.shape[1], positions.max(axis=1, initial=-1) + 1
        length = jnp.maximum(self.length, seen.astype(self.length.dtype))  # the dtype that a scan carries
        slots = positions % self.size if self.rolling else positions
        kept = (positions >= 0) & (positions >= length[:, None] - self.size if self.rolling else True)
        slots = jnp.where(kept, slots, self.size)  # outside: dropped
        rows = jnp.arange(key.shape[0])[:, None]
        new = dataclasses.replace(
            self,
            key=jnp.asarray(self.key).at[rows, slots].set(key.astype(self.key.dtype), mode="drop"),
            value=jnp.asarray(self.value).at[rows, slots].set(value.astype(self.value.dtype), mode="drop"),
            length=length,
        )
        if not self.rolling:  # a slot is its position, and what lies behind the query is not seen
            return new, new.key, new.value, Places(positions)
        if tokens == 1:
            return new, new.key, new.value, Places(positions, new.positions_of_slots())
        # A later token of these may take the place of what an earlier one still sees: look at both.
        keys = jnp.concatenate([self.key, key.astype(self.key.dtype)], axis=1)
        values = jnp.concatenate([self.value, value.astype(self.value.dtype)], axis=1)
        places = Places(positions, jnp.concatenate([self.positions_of_slots(), positions], axis=1))
        return new, keys, values, places

    def positions_of_slots(self) -> Int[Array, "B L"]:
        """The position whose token lies in each slot of a rolling cache; below 0 where there is none."""
        last = self.length[:, None] - 1
        return last - (last - jnp.arange(self.size)) % self.size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContextCache:
    """The keys and values of a context, which stay the same for every token that looks at it.

    Attributes:
        key: `(B, S, K, H)`, rotated already.
        value: `(B, S, K, H)`.
        owner: as in `KVCache`.
    """

    key: Leaf
    value: Leaf
    owner: str | None = dataclasses.field(default=None, metadata={"static": True})


def require_cache(cache: Any, *kinds: type) -> None:
    """Raise ValueError unless a cache is of one of the kinds that the module's `init_cache` makes."""
    if not isinstance(cache, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"cache must be a {names}, as init_cache makes it, got {type(cache).__name__}")


def require_sizes(batch: int, length: int | None, dtype: DTypeLike) -> None:
    """Raise ValueError unless these are a number of sequences, one of tokens (None: any) and a floating dtype."""
    require_positive("batch", batch)
    if length is not None:
        require_positive("length", length)
    require_floating("dtype", dtype)


def require_state(cache: Any, empty: Any) -> None:
    """Raise ValueError unless a cache has the structure, the shapes and the kind of dtype of an empty one."""
    if jax.tree.structure(cache) != jax.tree.structure(empty) or isinstance(cache, str):
        kind = "an array" if hasattr(empty, "shape") else f"a {type(empty).__name__}"
        raise ValueError(f"cache must be {kind}, as init_cache makes it, got {type(cache).__name__}")
    for (path, given), expected in zip(
        jax.tree_util.tree_leaves_with_path(cache), jax.tree.leaves(empty), strict=True
    ):
        name = f"cache{jax.tree_util.keystr(path)}"
        if getattr(given, "shape", None) != expected.shape:
            got = given.shape if hasattr(given, "shape") else repr(given)
            raise ValueError(f"{name} must have shape {expected.shape}, got {got}")
        _require_floats(name, given)


def as_before(state: Any, cache: Any) -> Any:
    """A state in the dtypes of the one before it: a scan carries it, and the next step is the same program."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), state, cache)


def _require_floats(name: str, given: Array) -> None:
    if not jnp.issubdtype(given.dtype, jnp.floating):  # what comes into it would be cut to integers
        raise ValueError(f"{name} must be floating, got {given.dtype}")


def next_positions(
    length: Int[Array, "B"], tokens: int, real: Bool[Array, "B T"] | None
) -> Int[Array, "B T"]:
    """The positions of the next tokens of sequences that have `length`, without padding, which gets -1."""
    if real is None:
        return length[:, None] + jnp.arange(tokens)
    return jnp.where(real, length[:, None] + jnp.cumsum(real, axis=1) - 1, -1)


def require_cacheable(
    is_causal: bool, positions: AttentionPositions | None = None, tokens: int | None = None
) -> None:
    """Raise ValueError unless attention can be computed token by token, up to `tokens`; None is any number."""
    if not is_causal:
        raise ValueError("a cache is for attention with is_causal=True: here a token sees those after it too")
    if positions is None or positions.why_no_cache is None:
        return
    most = positions.longest_cached
    if tokens is None or tokens > most:
        up_to = f", but for texts of at most {most} tokens, got {tokens or 'a rolling cache'}" if most else ""
        raise ValueError(positions.why_no_cache + up_to)


def check_kept(
    cache: KVCache | ContextCache, owner: Any, batch: int, heads: int, widths: tuple[int, int]
) -> None:
    """Raise ValueError unless the cache holds keys and values of an attention of this class, of these shapes."""
    if cache.owner not in (None, name_of(owner)):  # of the same shapes, they would mean something else
        raise ValueError(f"the cache must be one of {name_of(owner)}, got one of {cache.owner}")
    shapes = tuple((batch, cache.key.shape[1], heads, width) for width in widths)
    if (cache.key.shape, cache.value.shape) != shapes:
        raise ValueError(
            f"the cache must hold keys {shapes[0]} and values {shapes[1]} for this module and batch, "
            f"got {cache.key.shape} and {cache.value.shape}"
        )
    _require_floats("cache.key", cache.key)
    _require_floats("cache.value", cache.value)


def name_of(attention: Any) -> str:
    """What a cache calls the attention that it belongs to."""
    return type(attention).__name__
