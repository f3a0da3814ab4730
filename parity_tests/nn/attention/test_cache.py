"""A cache is a plain value, and what is decoded with it is what the whole text gives."""

import dataclasses
from itertools import permutations

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.functional.blockwise import few_queries
from jax_attn.nn import (
    ContextCache,
    DifferentialAttention,
    GatedDeltaNet,
    KVCache,
    LatentAttention,
    LinearAttention,
    MultiHeadAttention,
    PerformerAttention,
    RelativeAttention,
    RotaryPositions,
)
from jax_attn.parity.runners.quick import quick_options
from parity_tests.from_scratch.properties import assert_same, compiled, draw

TOKENS = 11


def attention(**options) -> MultiHeadAttention:
    given = {"is_causal": True, "positions": RotaryPositions(4), "head_dim": 4, **options}
    return MultiHeadAttention(26, 6, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **given)


def in_chunks(module: MultiHeadAttention, x: jax.Array, sizes: tuple[int, ...], masks=None) -> jax.Array:
    """The outputs of the text given piece by piece."""
    cache, outputs, done = module.init_cache(x.shape[0], TOKENS), [], 0
    for size in sizes:
        mask = None if masks is None else masks[:, done : done + size]
        output, cache = module(x[:, done : done + size], mask=mask, cache=cache)
        outputs.append(output)
        done += size
    return jnp.concatenate(outputs, axis=1)


FEW_CHUNKS, MANY_CHUNKS = ((TOKENS,), (5, 1, 1, 4)), ((2, 7, 2), (1,) * TOKENS)


@pytest.mark.parametrize(
    ("window", "chunks"),
    [
        (None, FEW_CHUNKS),
        (3, FEW_CHUNKS),
        *(
            pytest.param(size, FEW_CHUNKS + MANY_CHUNKS, marks=pytest.mark.slow)
            for size in (None, 1, 3, TOKENS + 2)
        ),
    ],
)
@jax.enable_x64(True)
def test_in_chunks_of_any_size_it_is_the_whole(window, chunks):
    """Chunks that are longer than the window, too: a later token must not push out what an earlier one sees."""
    module, x = attention(window=window), draw(3, TOKENS, 26)
    whole, *parts = compiled(lambda x: [module(x), *(in_chunks(module, x, sizes) for sizes in chunks)])(x)
    for part in parts:
        assert_same(part, whole)


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 3])
@jax.enable_x64(True)
def test_padding_anywhere_leaves_a_text_as_it_is_alone(window):
    """On the left, on the right, in the middle of a chunk, and a row that takes no part in some steps."""
    module, x = attention(window=window), draw(4, TOKENS, 26)
    real = jnp.array(
        [
            [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
            [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1],
            [1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ],
        bool,
    )
    padded = compiled(lambda x: in_chunks(module, x, (6, 1, 1, 3), real))(x)
    for row in range(4):
        text = x[row, real[row]]
        assert_same(padded[row, real[row]], compiled(module)(text))


@jax.enable_x64(True)
def test_a_text_is_decoded_with_one_compilation_and_in_one_scan():
    module, x = attention(), draw(3, TOKENS, 26)
    graphdef, state = nnx.split(module)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state, cache, token):
        output, cache = nnx.merge(graphdef, state)(token[:, None], cache=cache)
        return cache, output[:, 0]

    one_by_one = jax.jit(step, compiler_options=quick_options())
    cache, outputs = module.init_cache(3, TOKENS), []
    for t in range(TOKENS):
        cache, output = one_by_one(state, cache, x[:, t])
        outputs.append(output)
    assert cache.length.tolist() == [TOKENS] * 3
    whole = compiled(module)(x)
    assert_same(jnp.stack(outputs, 1), whole)

    chex.clear_trace_counter()
    scan = compiled(lambda x: jax.lax.scan(lambda c, t: step(state, c, t), module.init_cache(3, TOKENS), x))
    assert_same(scan(x.swapaxes(0, 1))[1].swapaxes(0, 1), whole)


@pytest.mark.parametrize(
    ("batch", "read_at"),
    [(1, {0: 128, 16: 128, 1000: 128, 1023: 128}), (4, {0: 32, 16: 32, 255: 32, 256: 64, 1023: 128})],
)
def test_on_a_cpu_a_step_reads_the_same_at_each_of_a_thousand_positions(monkeypatch, batch, read_at):
    """In blocks of 8 keys; of several texts beside each other the stretches that are filled."""
    over_blocks, read = few_queries._over_blocks, []

    def counting(step, init, *others):
        result, blocks = over_blocks(
            lambda block, carry: (step(block, carry[0]), carry[1] + 1), (init, jnp.int32(0)), *others
        )
        jax.debug.callback(lambda count: read.append(int(count)), blocks)
        return result

    monkeypatch.setattr(few_queries, "_over_blocks", counting)
    monkeypatch.setattr(few_queries, "PRODUCTS", 1)
    module = MultiHeadAttention(512, 8, is_causal=True, rngs=nnx.Rngs(0))
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(cache, token):
        return module(token, cache=cache)

    run, empty = jax.jit(step, compiler_options=quick_options()), module.init_cache(batch, 1024)
    for place, blocks in read_at.items():
        read.clear()
        jax.block_until_ready(
            run(dataclasses.replace(empty, length=jnp.full(batch, place)), jnp.ones((batch, 1, 512)))
        )
        jax.effects_barrier()
        assert read == [blocks, blocks]  # keys and values


@jax.enable_x64(True)
def test_beams_are_reordered_by_their_rows():
    module, x = attention(window=4), draw(3, TOKENS, 26)
    order = jnp.array([2, 0, 0])

    @compiled
    def decode(x):
        _, cache = module(x[:, :7], cache=module.init_cache(3, TOKENS))
        cache = jax.tree.map(lambda leaf: leaf[order], cache)
        return module(x[:, 7:], cache=cache)[0]

    whole = compiled(module)(jnp.concatenate([x[order, :7], x[:, 7:]], axis=1))
    assert_same(decode(x), whole[:, 7:])


@jax.enable_x64(True)
def test_a_context_is_projected_once():
    module, x, context = attention(is_causal=False), draw(3, 5, 26), draw(3, 7, 26, seed=1)
    keys = jnp.arange(7) < jnp.array([[7], [3], [1]])

    @compiled
    def both(x, context):
        cache = module.init_context_cache(context)
        positions = jnp.arange(2, 5)[None]
        late, same = module(x[:, 2:], mask=keys, cache=cache, positions=positions)
        return module(x, context, keys)[:, 2:], late, same, cache

    at_once, late, same, cache = both(x, context)
    assert_same(late, at_once)
    chex.assert_trees_all_equal(same, cache)


@pytest.mark.slow
@jax.enable_x64(True)
def test_gradients_go_through_a_cache():
    module, x = attention(window=3), draw(2, TOKENS, 26)
    weight = draw(2, TOKENS, 26, seed=1)
    cached = compiled(jax.grad(lambda x: (in_chunks(module, x, (4, 1, 6)) * weight).sum()))
    assert_same(cached(x), compiled(jax.grad(lambda x: (module(x) * weight).sum()))(x))


@jax.enable_x64(True)
def test_what_a_cache_costs():
    """A window bounds it; the dtype may be smaller than the weights'."""
    module = attention(window=3)
    cache = module.init_cache(5, 1000, dtype=jnp.bfloat16)
    assert cache.key.shape == cache.value.shape == (5, 3, 2, 4)
    assert cache.key.dtype == jnp.bfloat16
    assert attention().init_cache(5, 1000).key.shape == (5, 1000, 2, 4)


@jax.enable_x64(True)
def test_bad_caches_are_refused():
    module, x = attention(), jnp.ones((3, 5, 26))
    cache = module.init_cache(3, 7)
    _, fuller = module(x, cache=cache)
    context = module.init_context_cache(x)
    for call, message in (
        (lambda: module(x, cache=fuller), "the cache is for 7 tokens: 5 are in it, and 5 do not fit"),
        (
            lambda: module(x[:2], cache=cache),
            r"keys \(2, 7, 2, 4\) and values \(2, 7, 2, 4\) for this",
        ),
        (
            lambda: module(x[:2], cache=context),
            r"keys \(2, 5, 2, 4\) and values \(2, 5, 2, 4\) for this",
        ),
        (
            lambda: attention(head_dim=6, positions=None)(x, cache=cache),
            r"the cache must hold keys \(3, 7, 2, 6\)",
        ),
        (
            lambda: module(x[0], cache=cache),
            r"x must have a batch axis where there is a cache, got shape",
        ),
        (
            lambda: module(x, cache=attention(window=3).init_cache(3, 7)),
            "the cache holds the last 3 tokens alone: too few for window=None",
        ),
        (
            lambda: attention(window=4)(x, cache=attention(window=3).init_cache(3, 7)),
            "the cache holds the last 3 tokens alone: too few for window=4",
        ),
        (lambda: attention(is_causal=False)(x, cache=cache), "a cache is for attention with is_causal=True"),
        (lambda: module(x, x, cache=cache), "context cannot be given together with a cache"),
        (lambda: module(x, value=x, cache=context), "value cannot be given together with a cache"),
        (
            lambda: module(x, positions=jnp.ones((3, 5), int), cache=cache),
            "positions cannot be given together",
        ),
        (
            lambda: module(x, segment_ids=jnp.ones((3, 5), int), cache=cache),
            "segment_ids cannot be given together",
        ),
        (lambda: module(x, mask=jnp.ones((3, 7), bool), cache=cache), "mask must have one of the shapes"),
        (lambda: module.init_cache(0, 7), "batch must be at least 1, got batch=0"),
        (lambda: module.init_cache(3, 0), "length must be at least 1, got length=0"),
        (lambda: attention(is_causal=False).init_cache(3, 7), "a cache is for attention with is_causal=True"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_cache_of_another_attention_is_told_apart():
    """Of the same sizes, its keys would be taken for others; under transformations too."""
    x, options = jnp.ones((2, 3, 8)), {"is_causal": True, "rngs": nnx.Rngs(0)}
    kinds = [kind(8, 2, **options) for kind in (MultiHeadAttention, DifferentialAttention, RelativeAttention)]
    one = MultiHeadAttention(8, 1, head_dim=4, **options), LatentAttention(8, 1, 4, 4, 4, **options)
    pairs = [(module, other) for each in (kinds, one) for module, other in permutations(each, 2)]

    def through_jit(module, cache):
        return jax.jit(lambda kept: module(x, cache=kept))(cache)

    def through_vmap(module, cache):
        return jax.vmap(lambda row, kept: module(row[None], cache=kept), out_axes=1)(
            x, jax.tree.map(lambda leaf: leaf[:, None], cache)
        )

    def through_scan(module, cache):
        return jax.lax.scan(lambda kept, row: (module(row, cache=kept)[1], None), cache, x[None])

    for way in (through_jit, through_vmap, through_scan):
        for module, other in pairs:
            names = f"the cache must be one of {type(module).__name__}, got one of {type(other).__name__}"
            with pytest.raises(ValueError, match=names):
                way(module, other.init_cache(2, 5))
        way(kinds[0], kinds[0].init_cache(2, 5))
    cross, differential = (
        kind(8, 2, rngs=nnx.Rngs(0)) for kind in (MultiHeadAttention, DifferentialAttention)
    )
    with pytest.raises(ValueError, match="one of DifferentialAttention, got one of MultiHeadAttention"):
        differential(x, cache=cross.init_context_cache(x))
    by_hand = dataclasses.replace(kinds[0].init_cache(2, 5), owner=None)
    assert kinds[0](x, cache=by_hand)[1].owner is None


@pytest.mark.parametrize("kept", [None, 5])
@jax.enable_x64(True)
def test_a_cache_that_keeps_more_serves_a_shorter_window(kept):
    """One that keeps all tokens, or those of a longer window: the attention looks at its own."""
    module, x = attention(window=3), draw(3, TOKENS, 26)

    @compiled
    def decode(x):
        first, cache = module(x[:, :6], cache=attention(window=kept).init_cache(3, TOKENS))
        second, cache = module(x[:, 6:9], cache=cache)
        third, cache = module(x[:, 9:10], cache=cache)
        return jnp.concatenate([first, second, third, module(x[:, 10:], cache=cache)[0]], axis=1)

    assert_same(decode(x), compiled(module)(x))


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_cache_keeps_its_dtypes_whatever_is_computed(tokens):
    """A scan carries it, and under `jit` the second step is the program of the first."""
    kinds = MultiHeadAttention, LinearAttention, PerformerAttention, GatedDeltaNet
    for kind in kinds:
        causal = {} if kind is GatedDeltaNet else {"is_causal": True}
        module = kind(8, 2, **causal, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
        for asked in (None, jnp.bfloat16):
            cache, x = module.init_cache(2, 5, dtype=asked), jnp.ones((2, tokens, 8))
            _, after = jax.eval_shape(lambda x, cache, module=module: module(x, cache=cache), x, cache)
            chex.assert_trees_all_equal_shapes_and_dtypes(after, cache)


@jax.enable_x64(True)
def test_a_cache_is_a_tree_of_its_arrays():
    for cache in (attention().init_cache(3, 7), attention(window=3).init_cache(3, 7)):
        leaves, tree = jax.tree.flatten(cache)
        assert len(leaves) == 3
        assert isinstance(jax.tree.unflatten(tree, leaves), KVCache)
    assert len(jax.tree.leaves(ContextCache(jnp.ones(1), jnp.ones(1)))) == 2
