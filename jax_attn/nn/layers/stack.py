"""Layers one after another: a list of them, or one whose leaves carry all the layers."""

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import checked, require_divisible, require_part, require_positive
from jax_attn.nn.attention.cache import KVCache
from jax_attn.nn.attention.seen import real_tokens
from jax_attn.nn.positions.attention_positions import Places
from jax_attn.nn.primitives import Dropout


class Stack(nnx.Module):
    """`norm(layer_n(... layer_1(x)))`: layers that are given built, one after another.

    With `scan` the layers, which then have to be alike, are one whose every leaf has a leading axis of layers, and
    the stack is one loop: it compiles once in place of once a layer, and a train step handles fewer arrays. The
    numbers are those of the list, from the same seed too, dropout included. Layers that differ in turn, as in
    Gemma 2 those with a window and those without, are alike every `period` layers: a step of the loop runs as many.

    With `repeats` the layers run so many times, one pass after another with the same parameters, as ALBERT's; with
    `scan` in one more loop.

    With `positions` all layers share one table of biases, as T5's and MPNet's: they are computed once, and each
    layer's attention is called with `bias=`. With a cache they are those of where the tokens stand.

    Parameters: `layers.{i}.…` as the layers have them, or with `scan` `layers.…` with a leading layer axis (and
    `stacked = ("layers",)` says so), with a period `layers.layers.{i}.…` with an axis of periods; `norm`;
    `positions`.

    Args:
        layers: the layers, each a module of its own.
        norm: what follows the last, as pre-norm wants; built. None is nothing.
        positions: what the layers add to their scores, as `T5Positions`, built; the attentions have none. None is
            nothing.
        dropout: probability of dropping an element of the output, while training.
        repeats: how many times the layers run.
        scan: whether the layers are stacked.
        remat: whether the backward pass computes each layer again, in place of keeping what is inside it.
        period: after how many layers one is alike again, where they are stacked.
        rngs: source of dropout; not needed without.

    Raises:
        ValueError: there are no layers; one is given twice; `period` does not divide their number; they are to be
            stacked and differ; or `repeats` is not positive. With `positions` a cache that does not keep all
            tokens; with `repeats` any.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1; shared biases: Raffel et al. (1910.10683), section 2.1;
        repeats: Lan et al. (1909.11942), section 3.1.
    """

    @checked
    def __init__(
        self,
        layers: Sequence[Any],
        norm: Any = None,
        positions: Any = None,
        dropout: float = 0.0,
        repeats: int = 1,
        *,
        scan: bool = False,
        remat: bool = False,
        period: int = 1,
        rngs: nnx.Rngs | None = None,
    ):
        layers = list(layers)
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        for layer in layers:
            require_part("layers", layer)
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("layers must be modules of their own, got one of them twice")
        require_divisible("the number of layers", len(layers), "period", period)
        require_positive("repeats", repeats)
        self.repeats = repeats
        self.stacked = ("layers",) if scan else ()
        self.period = period
        self.remat = remat
        self.num_layers = len(layers)
        self.layers = stack(_in_periods(layers, period)) if scan else nnx.List(layers)
        self.norm = norm
        self.positions = positions
        self.dropout = Dropout(dropout, rngs=rngs) if dropout and rngs is not None else None

    def __call__(self, x: Float[Array, "*b t d"], *shared: Any, cache: Any = None, **options: Any) -> Any:
        """Run the layers; each is called as `layer(x, *shared, **options)`, with its own part of a cache.

        Args:
            x: `(t, d)` or `(b, t, d)`.
            shared: arrays, or None, that each layer takes.
            cache: of `init_cache`.
            options: the same, by name. With `positions` a mask of the tokens that go into a cache has to be `mask`.

        Returns:
            what the last layer gives, normed; with a cache, a tuple of that and the new cache.
        """
        if cache is not None:
            self._check_cache(cache)
        if self.positions is not None:
            options = {**options, "bias": self._bias(x, cache, **options)}
        if isinstance(self.layers, nnx.List):
            for _ in range(self.repeats):
                x, new = self._in_turn(x, cache, shared, options)
        else:
            _check_room(cache, x.shape[-2])
            # A loop cannot widen what it carries, as the first of the layers in a list does.
            x = x.astype(_dtype_after(self.layers, x, cache, shared, options))
            if self.repeats == 1:
                x, new = self._in_a_loop(self.layers, x, cache, shared, options)
            else:
                x, new = self._repeated(x, shared, options), None
        x = x if self.norm is None else self.norm(x)
        x = x if self.dropout is None else self.dropout(x)
        return x if cache is None else (x, new)

    @property
    def _step(self) -> Any:
        # graph=False: the layers share nothing, and only so may a model merged inside `jax.grad` run them.
        return nnx.remat(run_layer, graph=False) if self.remat else run_layer

    def _in_turn(self, x: Array, cache: Any, shared: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One pass through the list, and what it makes of the cache."""
        new = []
        for index, layer in enumerate(self.layers):
            x, part = self._step(layer, x, None if cache is None else cache[index], shared, options)
            new.append(part)
        return x, tuple(new)

    def _in_a_loop(
        self, layers: Any, x: Array, cache: Any, shared: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """One pass through stacked layers, and what it makes of the cache."""
        axes = (0, nnx.Carry, 0, None, None)
        loop = nnx.scan(self._step, in_axes=axes, out_axes=(nnx.Carry, 0), graph=False)
        return loop(layers, x, cache, shared, options)

    def _repeated(self, x: Array, shared: tuple[Any, ...], options: dict[str, Any]) -> Array:
        """All passes through stacked layers. What one changes, such as counts of draws, the next starts from."""
        graphdef, parameters, captures, rest = nnx.split(self.layers, nnx.Param, _is_captured, ...)
        changes = False

        def one_pass(carried: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], Any]:
            nonlocal changes
            x, state = carried
            before = jax.tree.leaves(state)
            layers = nnx.merge(graphdef, parameters, captures, state, copy=True)
            x = self._in_a_loop(layers, x, None, shared, options)[0]
            __, kept, after = nnx.state(layers, nnx.Param, _is_captured, ...)
            changes = any(new is not old for old, new in zip(before, jax.tree.leaves(after), strict=True))
            return (x, after), kept

        (x, rest), kept = jax.lax.scan(one_pass, (x, rest), length=self.repeats)
        for _, variable in nnx.to_flat_state(kept):
            variable.set_value(_call_by_call(variable.get_value(), self.repeats))
        nnx.update(self.layers, kept)
        if changes:  # else it may belong to another trace, which has to stay as it is
            nnx.update(self.layers, rest)
        return x

    def init_cache(
        self,
        batch: int,
        length: int,
        context: Float[Array, "b s k"] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Any:
        """An empty cache for `length` tokens of `batch` sequences: a tuple of those of the layers.

        With `scan`, that of one layer, whose every leaf has a leading axis of layers.

        Args:
            batch: number of sequences.
            length: the most tokens that they will have.
            context: `(batch, s, k)`, what the layers attend to beside the tokens; None is nothing.
            dtype: dtype of keys and values; None is that of the computation.

        Raises:
            ValueError: as in the layers.
        """
        first = self.layers[0] if isinstance(self.layers, nnx.List) else self.layers
        if not hasattr(first, "init_cache"):
            raise ValueError(f"layers must decode token by token: {type(first).__name__} has no init_cache")
        given = (batch, length, *(() if context is None else (context,)))
        if isinstance(self.layers, nnx.List):
            return tuple(layer.init_cache(*given, dtype=dtype) for layer in self.layers)
        every = nnx.vmap(lambda layer: layer.init_cache(*given, dtype=dtype), graph=False)
        return every(self.layers)

    def reorder_cache(self, cache: Any, rows: Int[Array, "b"]) -> Any:
        """The cache of the sequences `rows`, in that order: of the beams that go on.

        >>> cache = decoder.reorder_cache(cache, jnp.array([1, 1, 0]))
        """
        if isinstance(self.layers, nnx.List):
            return tuple(_rows(layer, part, rows) for layer, part in zip(self.layers, cache, strict=True))
        return jax.vmap(lambda part: _rows(self.layers, part, rows))(cache)

    def _check_cache(self, cache: Any) -> None:
        """Raise ValueError where the cache is not one for these layers."""
        if self.repeats > 1:
            raise ValueError(f"cache must be None with repeats={self.repeats}: each pass would need its own")
        listed = type(cache) in (tuple, list)
        if isinstance(self.layers, nnx.List):
            if not listed or len(cache) != len(self.layers):
                given = f"{len(cache)} of them" if listed else f"a {type(cache).__name__}"
                raise ValueError(
                    f"cache must be a tuple of one for each of {len(self.layers)} layers, got {given}"
                )
            return
        steps, leaves = self.num_layers // self.period, jax.tree.leaves(cache)
        stacked = leaves and all(getattr(leaf, "shape", ())[:1] == (steps,) for leaf in leaves)
        if (listed and self.period == 1) or not stacked:
            raise ValueError(
                f"cache must be one with a leading axis of layers, {steps} long, as scan=True has it, "
                f"got a {type(cache).__name__}"
            )

    def _bias(
        self,
        x: Array,
        cache: Any,
        *,
        positions: Any = None,
        mask: Any = None,
        bias: Any = None,
        **others: Any,
    ) -> Array:
        """The biases that all layers share, with one that is given."""
        tokens, given = x.shape[-2], 0 if bias is None else bias
        if cache is None:
            at = None if positions is None else jnp.atleast_2d(positions)
            shared = self.positions.bias(Places(at, at), tokens, tokens)
            return (shared[0] if x.ndim == 2 else shared) + given
        kept = _kept(cache)
        if kept.rolling:
            raise ValueError("cache must keep all tokens where layers share positions, got one that rolls")
        places = Places(kept.next_positions(len(x), tokens, real_tokens(mask, len(x), tokens)))
        return self.positions.bias(places, tokens, kept.size) + given


def run_layer(layer: Any, x: Array, cache: Any, shared: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """One step of the stack. A function of the module, so that JAX knows it again and compiles it once."""
    if cache is None:
        return layer(x, *shared, **options), None
    return layer(x, *shared, cache=cache, **options)


def _is_captured(path: tuple[Any, ...], _: Any) -> bool:
    """Whether a variable is what someone captures of a call."""
    return "__captures__" in path


def _call_by_call(kept: dict[str, tuple[Any, ...]], repeats: int) -> dict[str, tuple[Any, ...]]:
    """What was kept of the calls of each pass, whose leaves have a leading axis of passes, one after another."""
    return {
        name: tuple(
            jax.tree.map(lambda leaf, index=index: leaf[index], call)
            for index in range(repeats)
            for call in calls
        )
        for name, calls in kept.items()
    }


def _in_periods(layers: list[Any], period: int) -> list[Any]:
    """What each step of the loop runs: a layer, or a stack of as many as differ."""
    if period == 1:
        return layers
    return [Stack(layers[start : start + period]) for start in range(0, len(layers), period)]


def stack(layers: Sequence[Any]) -> Any:
    """One layer whose every leaf, the dropout keys included, has a leading axis over `layers`."""
    first, *others = map(_settings, layers)
    for index, settings in enumerate(others, 1):
        differ = [name for name in first | settings if first.get(name) != settings.get(name)]
        if differ:
            raise ValueError(f"layers must be alike to be scanned, got {differ[0]} of layer {index} another")
    graphdef, *_ = nnx.split(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def _settings(layer: nnx.Module) -> dict[str, Any]:
    """What a layer and all below it are, but for the values of its variables."""
    return {
        ".".join((*map(str, path), name)): _described(value)
        for path, node in nnx.iter_modules(layer, graph=True)
        for name, value in vars(node).items()
        if not name.startswith("_")
    }


def _described(value: Any) -> Any:
    """Something that is equal for two values that mean the same in two layers that were built alike."""
    if isinstance(value, nnx.Variable):
        return type(value), jnp.shape(value.get_value())
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, FunctionType):  # made anew for each layer, such as a window's mask mod
        return value.__code__, tuple(_described(cell.cell_contents) for cell in value.__closure__ or ())
    return type(value)


def _rows(layer: Any, cache: Any, rows: Int[Array, "b"]) -> Any:
    """The rows of one layer's cache."""
    if isinstance(layer, Stack):
        return layer.reorder_cache(cache, rows)
    return jax.tree.map(lambda leaf: leaf[rows], cache)


def _dtype_after(stacked: Any, x: Array, *given: Any) -> Any:
    """The dtype of what the layers give, if they are given their own output's."""
    if not _changes_dtypes(stacked, x.dtype):
        return x.dtype
    graphdef, state = nnx.split(stacked)

    def first_layer(state: Any, x: Array, cache: Any, shared: Any, options: Any) -> Array:
        state, cache = jax.tree.map(lambda leaf: leaf[0], (state, cache))
        layer = nnx.merge(graphdef, state)
        layer.eval()  # nothing is drawn
        return run_layer(layer, x, cache, shared, options)[0]

    after = jax.eval_shape(first_layer, state, x, *given).dtype
    return jax.eval_shape(first_layer, state, x.astype(after), *given).dtype


def _changes_dtypes(layer: Any, dtype: Any) -> bool:
    """Whether there is another dtype than that of the input anywhere, as a parameter's or to compute in."""
    floating = [leaf.dtype for leaf in jax.tree.leaves(layer) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    asked = [getattr(node, "dtype", None) for _, node in nnx.iter_modules(layer, graph=True)]
    return any(other is not None and other != dtype for other in [*floating, *asked])


def _check_room(cache: Any, tokens: int) -> None:
    """Raise ValueError where a stacked cache would overflow, as each layer by itself does (not known in a loop)."""
    for each in _of_attentions(cache):
        if not isinstance(each.length, Tracer):
            each = _of_one_layer(each)
            each.check_room(tokens, window=each.size)


def _kept(cache: Any) -> KVCache:
    """What the first of the layers keeps: all keep the same tokens."""
    return _of_one_layer(next(iter(_of_attentions(cache))))


def _of_attentions(cache: Any) -> list[KVCache]:
    leaves = jax.tree.leaves(cache, is_leaf=lambda node: isinstance(node, KVCache))
    return [leaf for leaf in leaves if isinstance(leaf, KVCache)]


def _of_one_layer(cache: KVCache) -> KVCache:
    while cache.key.ndim > 4:
        cache = jax.tree.map(lambda leaf: leaf[0], cache)
    return cache
