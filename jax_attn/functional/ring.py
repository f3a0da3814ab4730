"""Attention over sequences whose tokens are dealt out over the `context` axis of a mesh.

Each device keeps its queries. Keys and values go around in a ring: a device looks at those it holds, in blocks,
hands them to its neighbour and gets the next; what it has found so far is merged through the log-sum-exp. So no
device ever holds more tokens than its own and one neighbour's. In the backward pass keys and values go around
again, with their gradients, which come home at the end. What a window hides from all devices is not looked at.

Causal work is not even: the first device sees one part of the keys, the last sees all, and a step takes as long as
its slowest. It is half idle, as with every order of tokens in which neighbours stay together.

Source: Liu et al. (arXiv 2310.01889); the gradients of a part: FlashAttention-2 (2307.08691), algorithm 2.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.attention import FEW_QUERIES, blockwise_attention, blockwise_gradient
from jax_attn.functional.blockwise.plan import EMPTY, FULL, PARTIAL, Pattern, grid_of_band, make_pattern
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import mesh_axes_of, mesh_in_sight
from jax_attn.functional.terms import Differentiable, Terms, combine, partition

BLOCK = (128, 128)
Outputs = tuple[Array, Array, Array]  # output, log-sum-exp, largest score
Band = tuple[int | None, int | None]


def ring_in_sight(query: Float[Array, "B T N H"], key: Float[Array, "B S K H"]) -> int:
    """Over how many devices the tokens are dealt out; 1 where they are not, as where they cannot be."""
    mesh = mesh_in_sight()
    size = 1 if mesh is None else mesh.shape.get("context", 1)
    lengths = query.shape[1], key.shape[1]
    if not all(isinstance(n, int) and n > 0 and n % size == 0 for n in lengths):
        return 1
    return size


def ring_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    scale: float,
    implementation: str | None = None,
) -> Outputs:
    """Output `(B, T, N, Hv)`, log-sum-exp and largest score `(B, T, N)`; the latter has no gradient.

    Args:
        query, key, value: with lengths that the `context` axis of the mesh in sight divides.
        terms: what happens to the scores; what comes with a pattern of blocks is looked at whole.
        scale: factor of the scores.
        implementation: of `blockwise_attention`, which computes a device's part.

    Raises:
        ValueError: a band on queries and keys of different lengths.
    """
    mesh = mesh_in_sight()
    if terms.band != (None, None) and query.shape[1] != key.shape[1]:
        raise ValueError(
            "is_causal and local_window_size need as many queries as keys where tokens are dealt out over "
            f"context={mesh.shape['context']} devices, got {query.shape[1]} and {key.shape[1]}"
        )
    axes = _axes(query, mesh.shape)
    devices = int(np.prod([mesh.shape[axis] for axis in axes.heads]))
    key, value = (_with_heads_for(x, devices, query.shape[2]) for x in (key, value))
    differentiable, constant = partition(terms)
    bias, mask = differentiable[0], constant.mask
    shared = set() if bias is None else set(axes.all) - _names(axes.spec(bias, queries=2))
    of_keys = mask is not None and mask.shape[2] == 1
    ring = _Ring(axes, mesh.shape["context"], scale, implementation, of_keys, tuple(sorted(shared)))
    return _ring_attention(ring, query, key, value, differentiable, constant)


class _Axes(NamedTuple):
    """Over which axes of the mesh batch entries and heads are dealt out."""

    batch: tuple[str, ...]
    heads: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.batch, *self.heads, "context")

    def spec(self, x: Any, queries: int | None = None, keys: int | None = None) -> PartitionSpec:
        """Of an array that broadcasts against `(B, N, T, S)`; `queries` or `keys` is the axis of the tokens."""
        tokens = {axis: "context" for axis in (queries, keys) if axis is not None}
        parts = {0: self.batch, 1: self.heads, **tokens}
        return PartitionSpec(*(parts.get(axis) or None if n != 1 else None for axis, n in enumerate(x.shape)))


class _Ring(NamedTuple):
    """What of a call is no array.

    Attributes:
        size: over how many devices the tokens are dealt out.
        mask_of_keys: whether the mask is one of keys alone.
        bias_shared: axes of the mesh along which devices share one part of the bias.
    """

    axes: _Axes
    size: int
    scale: float
    implementation: str | None
    mask_of_keys: bool
    bias_shared: tuple[str, ...]


class _Travelling(NamedTuple):
    """What goes around: keys, values, and what is said of keys alone."""

    key: Array
    value: Array
    mask: Array | None
    segment_ids: Array | None


class _Run(NamedTuple):
    """Looks at keys that lie one device further behind one's own each time, and in all of which the same is seen.

    Where the ring closes, what lies `i` devices behind lies `size - i` ahead.

    Attributes:
        first, last: distances, in devices.
        behind: the band that is seen of keys behind the queries, both counted from where the device's own start;
            None is nothing.
        ahead: the same of keys ahead.
    """

    first: int
    last: int
    behind: Band | None
    ahead: Band | None


def _axes(query: Array, sizes: Mapping[str, int]) -> _Axes:
    batch, _, heads, _ = query.shape
    known = batch if isinstance(batch, int) else 1
    return _Axes(mesh_axes_of("batch", known, sizes), mesh_axes_of("heads", heads, sizes))


def _with_heads_for(x: Float[Array, "B S K d"], devices: int, heads: int) -> Float[Array, "B S k d"]:
    """Keys or values, each head as often as it takes for every device to have those of its queries."""
    kv_heads = x.shape[2]
    for copies in range(1, heads // kv_heads + 1):
        if heads % (kv_heads * copies) == 0 and kv_heads * copies % devices == 0:
            return x if copies == 1 else jnp.repeat(x, copies, axis=2)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring_attention(
    ring: _Ring, query: Array, key: Array, value: Array, differentiable: Differentiable, constant: Terms
) -> Outputs:
    return _forward(ring, query, key, value, differentiable, constant)[0]


def _forward(ring: _Ring, *operands: Any) -> tuple[Outputs, Any]:
    outputs = _sharded(ring, operands, functools.partial(_attend, ring), lambda specs: specs.outputs)
    return outputs, (*operands, *outputs[:2])


def _backward(ring: _Ring, saved: Any, cotangents: Outputs) -> tuple[Any, ...]:
    *operands, output, lse = saved
    more = (output, lse, *cotangents[:2])
    gradients = _sharded(
        ring, operands, functools.partial(_gradients, ring), lambda specs: specs.gradients, more
    )
    return (*gradients, None)


_ring_attention.defvjp(_forward, _backward)


class _Specs(NamedTuple):
    """How everything lies on the mesh."""

    operands: tuple[Any, ...]
    outputs: tuple[Any, ...]
    gradients: tuple[Any, ...]


def _sharded(
    ring: _Ring,
    operands: Any,
    f: Callable[..., Any],
    results: Callable[[_Specs], Any],
    more: tuple[Array, ...] = (),
) -> Any:
    """`f(operands, more)`, on every device with its own parts."""
    specs = _specs(ring, *operands)
    given = (specs.operands, (*specs.outputs[:2], *specs.outputs[:2])[: len(more)])
    run = jax.shard_map(f, in_specs=given, out_specs=results(specs), check_vma=False)
    return run(tuple(operands), more)


def _specs(
    ring: _Ring, query: Array, key: Array, value: Array, differentiable: Differentiable, constant: Terms
) -> _Specs:
    axes = ring.axes
    tokens = PartitionSpec(axes.batch or None, "context", axes.heads or None, None)
    rows = PartitionSpec(axes.batch or None, "context", axes.heads or None)
    of_terms = jax.tree.map(lambda _: PartitionSpec(), constant)
    arrays: dict[str, Any] = {}
    if constant.mask is not None:  # of keys alone it goes around with them; else each device has its rows
        tokens_of = {"keys": 3} if ring.mask_of_keys else {"queries": 2}
        arrays["mask"] = axes.spec(constant.mask, **tokens_of)
    for name in ("query_seq_lengths", "key_value_seq_lengths"):
        if (array := getattr(constant, name)) is not None:
            arrays[name] = axes.spec(array)
    if constant.segment_ids is not None:
        of_query, of_key = constant.segment_ids
        arrays["segment_ids"] = axes.spec(of_query, queries=2), axes.spec(of_key, keys=3)
    of_terms = dataclasses.replace(of_terms, **arrays)
    bias, captured = differentiable
    of_bias = None if bias is None else axes.spec(bias, queries=2)
    of_differentiable = of_bias, jax.tree.map(lambda _: PartitionSpec(), captured)
    return _Specs(
        (tokens, tokens, tokens, of_differentiable, of_terms),
        (tokens, rows, rows),
        (tokens, tokens, tokens, of_differentiable),
    )


# What one device does.


def _attend(ring: _Ring, operands: Any, _: Any) -> Outputs:
    part = _Part(ring, *operands)
    query, _, value, *_ = operands
    wide = accumulator(query.dtype)
    rows = jnp.full(query.shape[:-1], -jnp.inf, wide)
    nothing = jnp.zeros((*rows.shape, value.shape[-1]), wide), rows, rows

    def look(at: Array, band: Band, held: _Travelling, found: Outputs, _: Any) -> tuple[Outputs, None]:
        options = part.pattern(band), ring.scale, part.implementation
        new = blockwise_attention(query, held.key, held.value, part.terms(held, at, band), *options)
        return _merged(found, new), None

    (output, lse, peak), _ = part.around(look, nothing, None)
    return output.astype(value.dtype), lse, peak


def _merged(found: Outputs, new: Outputs) -> Outputs:
    """Attention over two sets of keys, from that over each."""
    lse = jnp.logaddexp(found[1], new[1])
    base = jnp.where(lse == -jnp.inf, 0, lse)  # of rows that have seen nothing yet
    first, second = (jnp.exp(x[1] - base)[..., None] * x[0].astype(lse.dtype) for x in (found, new))
    return first + second, lse, jnp.maximum(found[2], new[2])


def _gradients(ring: _Ring, operands: Any, saved: tuple[Array, ...]) -> tuple[Any, ...]:
    part = _Part(ring, *operands)
    query, key, value, differentiable, _ = operands

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, accumulator(x.dtype)), tree)

    def look(at: Array, band: Band, held: _Travelling, stays: Any, travels: Any) -> tuple[Any, Any]:
        dq, (d_bias, d_captured) = stays
        options = part.pattern(band), ring.scale, part.implementation
        call = query, held.key, held.value, part.terms(held, at, band), *options
        more_q, *more, (of_bias, of_captured) = blockwise_gradient(*call, *saved)
        if d_bias is not None:
            d_bias = part.add_to_keys(d_bias, at, of_bias)
        d_captured = jax.tree.map(jnp.add, d_captured, of_captured)
        return (dq + more_q, (d_bias, d_captured)), jax.tree.map(jnp.add, travels, tuple(more))

    start = zeros((query, differentiable)), zeros((key, value))
    (dq, (d_bias, d_captured)), (dk, dv) = part.around(look, *start)
    if d_bias is not None:
        d_bias = lax.psum(d_bias, ring.bias_shared)
    found = dq, dk, dv, (d_bias, lax.psum(d_captured, ring.axes.all))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), found, (query, key, value, differentiable))


def _names(spec: PartitionSpec) -> set[str]:
    return {
        name for part in spec if part is not None for name in (part if isinstance(part, tuple) else (part,))
    }


class _Part:
    """One device's queries, and what it knows of all keys."""

    def __init__(
        self,
        ring: _Ring,
        query: Array,
        key: Array,
        value: Array,
        differentiable: Differentiable,
        constant: Terms,
    ):
        self.ring, self.differentiable, self.constant = ring, differentiable, constant
        self.queries, self.keys = query.shape[1], key.shape[1]
        # The form of attention for few queries would not take the log-sum-exp over all keys.
        few = self.queries <= FEW_QUERIES and ring.implementation is None
        self.implementation = "blockwise" if few else ring.implementation
        self.own = lax.axis_index("context")
        first = [lax.axis_index(names) if names else 0 for names in ring.axes]
        self.first_entry, self.first_head = first[0] * query.shape[0], first[1] * query.shape[2]
        mask, segments = constant.mask, constant.segment_ids
        self.held = _Travelling(
            key, value, mask if ring.mask_of_keys else None, None if segments is None else segments[1]
        )

    def around(self, look: Callable[..., Any], stays: Any, travels: Any) -> tuple[Any, Any]:
        """Look at all keys: `look(whose, band, held, stays, travels)` gives the last two anew."""
        held, at = self.held, 0
        for run in self._runs():
            held, travels = self._hand_on((held, travels), run.first - at)
            at = run.first
            if run.first == run.last:
                stays, travels = self._look(look, run, at, held, stays, travels)
                continue

            def step(distance: Array, carry: Any, run: _Run = run) -> Any:
                held, stays, travels = carry
                following = self._hand_on(held, 1)  # before the look: it can go on meanwhile
                stays, travels = self._look(look, run, distance, held, stays, travels)
                return following, stays, self._hand_on(travels, 1)

            held, stays, travels = lax.fori_loop(run.first, run.last + 1, step, (held, stays, travels))
            at = run.last + 1
        return stays, self._hand_on(travels, self.ring.size - at)

    def pattern(self, band: Band) -> Pattern:
        """The blocks of a part to look at."""
        grid = grid_of_band(self.queries, self.keys, BLOCK, *band)
        if self.constant.mask_mod is not None:
            grid = np.where(grid == FULL, PARTIAL, grid)
        return make_pattern(grid, BLOCK)

    def terms(self, held: _Travelling, at: Array, band: Band) -> Terms:
        """What happens to the scores of one's queries and the keys of the device `at`."""
        bias, captured = self.differentiable
        constant, segments = self.constant, self.constant.segment_ids
        starts = {"query_seq_lengths": self.own * self.queries, "key_value_seq_lengths": at * self.keys}
        counted = constant.score_mod, constant.mask_mod, constant.dropout
        terms = dataclasses.replace(
            constant,
            **{
                name: None if (lengths := getattr(constant, name)) is None else lengths - start
                for name, start in starts.items()
            },
            mask=self._of_keys(constant.mask, at) if held.mask is None else held.mask,
            segment_ids=None if segments is None else (segments[0], held.segment_ids),
            band=band,
            origin=(self.first_entry, self.first_head, *starts.values())
            if any(x is not None for x in counted)
            else None,
        )
        return combine((self._of_keys(bias, at), captured), terms)

    def add_to_keys(self, x: Array, at: Array, more: Array) -> Array:
        """`x` with what `_of_keys` took from it added to."""
        if x.shape[3] == 1:
            return x + more
        old = lax.dynamic_slice_in_dim(x, at * self.keys, self.keys, 3)
        return lax.dynamic_update_slice_in_dim(x, old + more, at * self.keys, 3)

    def _of_keys(self, x: Array | None, at: Array) -> Array | None:
        """The columns of the keys of the device `at`."""
        if x is None or x.shape[3] == 1:
            return x
        return lax.dynamic_slice_in_dim(x, at * self.keys, self.keys, 3)

    def _look(
        self, look: Callable[..., Any], run: _Run, distance: Any, held: Any, stays: Any, travels: Any
    ) -> Any:
        at = (self.own - distance) % self.ring.size

        def seeing(band: Band | None) -> Callable[..., Any]:
            def f(held: Any, stays: Any, travels: Any) -> Any:
                return (stays, travels) if band is None else look(at, band, held, stays, travels)

            return f

        if run.behind == run.ahead:
            return seeing(run.behind)(held, stays, travels)
        is_behind = distance <= self.own
        return lax.cond(is_behind, seeing(run.behind), seeing(run.ahead), held, stays, travels)

    def _hand_on(self, tree: Any, devices: int) -> Any:
        """Give what is held to the device that comes so many after."""
        size = self.ring.size
        if devices % size == 0:
            return tree
        pairs = [(device, (device + devices) % size) for device in range(size)]
        return jax.tree.map(lambda x: lax.ppermute(x, "context", pairs), tree)

    def _runs(self) -> list[_Run]:
        """What there is to be looked at, by distance."""
        runs: list[_Run] = []
        for distance in range(self.ring.size):
            behind = self._shifted(distance)
            ahead = self._shifted(distance - self.ring.size) if distance else behind
            if behind is None and ahead is None:
                continue
            last = runs[-1] if runs else None
            if last and (last.last, last.behind, last.ahead) == (distance - 1, behind, ahead):
                runs[-1] = last._replace(last=distance)
            else:
                runs.append(_Run(distance, distance, behind, ahead))
        return runs

    def _shifted(self, devices: int) -> Band | None:
        """The band as a device sees it in the keys `devices` behind it; None where nothing is seen."""
        before, after = self.constant.band
        shift = devices * self.keys
        band = None if before is None else before - shift, None if after is None else after + shift
        grid = grid_of_band(self.queries, self.keys, BLOCK, *band)
        if (grid == EMPTY).all():
            return None
        return (None, None) if (grid == FULL).all() else band
