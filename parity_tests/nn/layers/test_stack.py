import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.attention.weights import capture_attention_weights
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.positions.t5 import T5Positions
from jax_attn.weights.state_dict import numpy_state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestStack(TwinContract):
    rows = ("stack", "stack-shared-positions", "stack-repeated")
    rounds = drops = False  # the classifier, whose encoder is one
    elsewhere = ("stack-repeated", "stack-shared-positions")  # ALBERT and T5, which have them


def layer(seed: int, window: int | None = None, **options) -> DecoderLayer:
    own = {"rngs": nnx.Rngs(seed), "param_dtype": jnp.float64}
    attention = MultiHeadAttention(8, 2, is_causal=True, window=window, **options, **own)
    return DecoderLayer(8, hidden_dim=7, attention=attention, **own)


@pytest.mark.slow
@jax.enable_x64(True)
def test_layers_that_differ_in_turn_are_scanned_too_and_decode():
    """Layers that differ in turn, as Gemma 2's: a window, and none."""
    listed = Stack([layer(seed, None if seed % 2 else 3) for seed in range(4)])
    scanned = Stack([layer(seed, None if seed % 2 else 3) for seed in range(4)], scan=True, period=2)
    x = draw(2, 5, 8)
    tensors, same = numpy_state_dict(listed), numpy_state_dict(scanned)
    assert same.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(same[key], tensor)

    @compiled
    def run(x):
        cache, outputs = scanned.init_cache(2, 5), []
        for part in (slice(0, 3), slice(3, 5)):
            output, cache = scanned(x[:, part], cache=cache)
            outputs.append(output)
        rows = scanned.reorder_cache(cache, jnp.array([1, 0]))
        return listed(x), scanned(x), jnp.concatenate(outputs, 1), (cache, rows)

    expected, *others, (cache, rows) = run(x)
    for other in others:
        assert_same(other, expected)
    jax.tree.map(lambda leaf, before: assert_same(leaf, before[:, ::-1]), rows, cache)
    with pytest.raises(ValueError, match="the cache is for 5 tokens: 5 are in it, and 1 do not fit"):
        scanned(x[:, :1], cache=cache)


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
@jax.enable_x64(True)
def test_shared_positions_are_those_of_the_tokens_with_a_cache_too(scan):
    """Chunks of two lengths, and padding between the tokens of one row, which are counted without it."""
    own = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    positions = T5Positions(2, 4, 3, bidirectional=False, **own)
    decoder = Stack([layer(seed, scale=1.0) for seed in range(2)], positions=positions, scan=scan)
    alone = Stack([layer(seed, positions=None, scale=1.0) for seed in range(2)], scan=scan)
    x = draw(2, 6, 8)
    mask = jnp.ones((2, 6), bool).at[1, 2].set(False)
    counted = jnp.cumsum(mask, axis=1) - 1

    @compiled
    def run(x):
        cache, outputs = decoder.init_cache(2, 7), []
        for part in (slice(0, 2), slice(2, 5), slice(5, 6)):
            output, cache = decoder(x[:, part], mask=mask[:, part], cache=cache)
            outputs.append(output)
        whole = decoder(x, mask=mask, positions=counted)
        return whole, jnp.concatenate(outputs, 1), decoder(x[0]), alone(x[0])

    whole, chunks, first, without = run(x)
    assert_same(chunks[mask], whole[mask])
    assert_same(first, whole[0])
    assert abs(first - without).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, False])
@jax.enable_x64(True)
def test_passes_in_a_loop_are_those_in_turn(graph):
    """Dropout included: each pass draws anew, and a second call goes on from the first."""

    def stack(**options) -> Stack:
        own = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
        return Stack([EncoderLayer(8, 2, 7, dropout=0.3, **own) for _ in range(2)], repeats=2, **options)

    with nnx.set_graph_mode(graph):
        listed, looped = stack(), stack(scan=True, remat=True)
        x, call = draw(2, 5, 8), nnx.jit(lambda module, x: module(x))
        first, *others = [call(module, x) for _ in range(2) for module in (listed, looped)]
        assert_same(others[0], first)
        assert_same(others[2], others[1])
        assert abs(others[1] - first).max() > 0.1
        for module in (listed, looped):
            module.eval()
        # A module that the function closes over, as one that is only read may be.
        assert_same(jax.jit(lambda x: looped(x))(x), jax.jit(lambda x: listed(x))(x))


@jax.enable_x64(True)
def test_bad_caches_beside_repeats_are_refused():
    decoder = Stack([layer(0)], repeats=2)
    with pytest.raises(ValueError, match="cache must be None with repeats=2"):
        decoder(jnp.zeros((2, 1, 8)), cache=decoder.init_cache(2, 5))


@jax.enable_x64(True)
def test_bad_caches_beside_shared_beside_shared_positions_are_refused():
    positions = T5Positions(2, rngs=nnx.Rngs(0))
    decoder = Stack([layer(0, 3)], positions=positions)
    cache = decoder.init_cache(2, 5)
    with pytest.raises(ValueError, match="cache must keep all tokens where layers share positions"):
        decoder(jnp.zeros((2, 1, 8)), cache=cache)


def test_bad_layers_are_refused():
    one = EncoderLayer(8, 2, 7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="layers must hold at least one layer, got none"):
        Stack([])
    with pytest.raises(ValueError, match="layers must be modules of their own, got one of them twice"):
        Stack([one, one])
    with pytest.raises(
        ValueError, match=r"the number of layers must be divisible by period, got .*=1 and period=2"
    ):
        Stack([one], period=2)
    with pytest.raises(ValueError, match="repeats must be at least 1, got repeats=0"):
        Stack([one], repeats=0)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: layer(1, 3), "attention.window"),
        (lambda: layer(1, mask_mod=near(2)), "attention.mask_mod"),
        (
            lambda: DecoderLayer(8, 2, 9, rngs=nnx.Rngs(0), param_dtype=jnp.float64),
            "feed_forward.down.kernel",
        ),
    ],
)
@jax.enable_x64(True)
def test_bad_stacks_of_layers_that_differ_are_refused(other, what):
    first = layer(0, mask_mod=near(1)) if "mod" in what else layer(0)
    alike = layer(1, mask_mod=near(1)) if "mod" in what else layer(1)
    Stack([first, alike], scan=True)
    with pytest.raises(
        ValueError, match=f"layers must be alike to be scanned, got {what} of layer 1 another"
    ):
        Stack([first, other()], scan=True)


def near(distance: int):
    """A mask mod that is made anew for each layer."""
    return lambda b, h, q_idx, kv_idx: abs(q_idx - kv_idx) <= distance


@jax.enable_x64(True)
def test_weights_of_layers_that_differ_in_turn_are_captured_in_a_loop():
    def layers() -> list[DecoderLayer]:
        return [layer(seed, None if seed % 2 else 3) for seed in range(4)]

    x = draw(2, 5, 8).astype(jnp.float32)  # narrower than what the layers give
    _, want = capture_attention_weights(Stack(layers()))(x)
    _, found = capture_attention_weights(Stack(layers(), scan=True, period=2))(x)
    for path, weights in want.items():
        place = int(path.split(".")[1])
        assert_same(found[path.replace(str(place), f"layers.{place % 2}")][place // 2], weights)
