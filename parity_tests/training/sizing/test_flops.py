"""FLOPs against closed forms, with prime sizes, through every way in which a program holds another."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from jax_attn import dot_product_attention
from jax_attn.models import CausalLM, Part, TextDecoder
from jax_attn.nn import (
    CausalLMHead,
    DecoderLayer,
    Embeddings,
    GatedFeedForward,
    MultiHeadAttention,
    RMSNorm,
    Stack,
)
from jax_attn.training.sizing.flops import count_flops

M, K, N = 7, 11, 13
PRODUCT = 2 * M * K * N
SQUARED = 2 * K**3


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


LEFT, RIGHT, SQUARE = shaped(M, K), shaped(K, N), shaped(K, K)
BATCH, TOKENS, VOCABULARY, LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN = 2, 17, 101, 3, 30, 5, 1, 37
HEAD = WIDTH // HEADS


def total(function, *args):
    return count_flops(function, *args).total


def language_model(scan=False, remat=False):
    """Abstract: nothing is drawn."""
    attention = Part(
        MultiHeadAttention, embed_dim=WIDTH, num_heads=HEADS, num_kv_heads=KV_HEADS, is_causal=True
    )
    feed_forward = Part(GatedFeedForward, embed_dim=WIDTH, hidden_dim=HIDDEN, activation="silu")
    layer = Part(
        DecoderLayer,
        embed_dim=WIDTH,
        norm="rms",
        norm_placement="pre",
        attention=attention,
        feed_forward=feed_forward,
    )
    norm = Part(RMSNorm, normalized_shape=WIDTH)
    stack = Part(Stack, layers=[layer] * LAYERS, norm=norm, scan=scan, remat=remat)
    embeddings = Part(
        Embeddings,
        vocab_size=VOCABULARY,
        embed_dim=WIDTH,
        max_positions=None,
        num_segments=0,
        positions=None,
    )
    model = Part(
        CausalLM,
        model=Part(TextDecoder, embeddings=embeddings, decoder=stack),
        head=Part(CausalLMHead, embed_dim=WIDTH, vocab_size=VOCABULARY),
    )
    return nnx.eval_shape(lambda: model.build("jax_attn", rngs=nnx.Rngs(0)))


def counted(**options):
    """Loss and gradients, as a compiled function of the state."""
    graphdef, parameters, rest = nnx.split(language_model(**options), nnx.Param, ...)

    def loss(parameters, rest, ids):
        return nnx.merge(graphdef, parameters, rest)(ids).sum()

    step = jax.jit(jax.value_and_grad(loss))
    return count_flops(step, parameters, rest, shaped(BATCH, TOKENS, dtype=jnp.int32))


@pytest.fixture(scope="module")
def counts():
    return {
        "list": counted(),
        "scan": counted(scan=True),
        "remat": counted(remat=True),
        "both": counted(scan=True, remat=True),
    }


def test_products():
    batched = shaped(3, 5, M, K), shaped(3, 5, K, N)
    assert total(jnp.matmul, LEFT, RIGHT) == PRODUCT
    assert total(jnp.matmul, *batched) == 15 * PRODUCT
    assert total(jax.vmap(jax.vmap(jnp.dot)), *batched) == 15 * PRODUCT
    assert total(jnp.sin, LEFT) == 0


def test_a_ragged_product_meets_one_group_a_row():
    groups = shaped(3, K, N), shaped(3, dtype=jnp.int32)
    gradients = jax.value_and_grad(lambda a, b, n: jax.lax.ragged_dot(a, b, n).sum(), argnums=(0, 1))
    assert total(jax.lax.ragged_dot, LEFT, *groups) == PRODUCT
    assert total(gradients, LEFT, *groups) == 3 * PRODUCT


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(stride, groups):
    """Each output is a product with the kernel, and the gradient by the kernel has as many."""

    def convolve(x, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), "VALID", dimension_numbers=numbers, feature_group_count=groups
        )

    x, kernel = shaped(3, 23, 4), shaped(5, 4 // groups, 6)
    forward = 2 * math.prod(jax.eval_shape(convolve, x, kernel).shape) * 5 * (4 // groups)
    assert total(convolve, x, kernel) == forward
    by_kernel = jax.value_and_grad(lambda kernel, x: convolve(x, kernel).sum())
    assert total(by_kernel, kernel, x) == 2 * forward


def test_of_the_zeros_that_a_dilation_puts_in_nothing_counts():
    """The gradient by the input of a stride of 2: a product for each input, not for the zeros between them."""
    kernel = shaped(4, 3, 5)

    def transposed(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    assert total(transposed, shaped(1, 11, 3), kernel) == 2 * 11 * 4 * 3 * 5


def test_loops_count_each_turn():
    def scanned(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=19)[0]

    def in_a_loop(first, last):
        return lambda x: jax.lax.fori_loop(first, last, lambda _, carry: carry @ carry, x)

    assert total(scanned, SQUARE) == 19 * SQUARED
    assert total(in_a_loop(2, 19), SQUARE) == 17 * SQUARED
    assert total(in_a_loop(2, jnp.int32(19)), SQUARE) == 17 * SQUARED
    assert total(lambda x: jax.lax.map(lambda _: scanned(x), jnp.arange(5)), SQUARE) == 95 * SQUARED
    assert total(jax.grad(lambda x: scanned(x).sum()), SQUARE) == 57 * SQUARED


@pytest.mark.parametrize(
    "loop",
    [
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x),
        lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 3, c[1] @ c[1]), (0, x)),
        lambda x: jax.lax.fori_loop(0, x.sum().astype(int), lambda _, c: c @ c, x),
    ],
)
def test_a_loop_without_a_known_end_counts_once_and_is_noted(loop):
    found = count_flops(loop, SQUARE)
    assert found.total == SQUARED
    assert "depends on data" in found.notes[0]


def test_a_branch_costs_as_the_dearest():
    def branched(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)

    assert total(branched, shaped(dtype=jnp.int32), SQUARE) == 2 * SQUARED


def test_custom_derivatives_count_once():
    by_jvp, by_vjp = jax.custom_jvp(jnp.matmul), jax.custom_vjp(jnp.matmul)
    by_jvp.defjvp(lambda primals, tangents: (by_jvp(*primals), jnp.zeros((M, N))))
    by_vjp.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, y: (y @ saved[1].T, saved[0].T @ y))
    for function in (by_jvp, by_vjp, jax.checkpoint(jnp.matmul), jax.jit(jnp.matmul)):
        assert total(function, LEFT, RIGHT) == PRODUCT
    backward = jax.value_and_grad(lambda a, b: by_vjp(a, b).sum(), argnums=(0, 1))
    assert total(backward, LEFT, RIGHT) == 3 * PRODUCT


@pytest.mark.parametrize("axes", [("a",), ("a", "b")])
def test_a_shard_map_counts_on_all_devices(axes):
    """What is not cut is computed by each."""
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh, cut = AbstractMesh((7, 2), ("a", "b"), axis_types=kinds), PartitionSpec("a")
    mapped = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(cut, PartitionSpec()), out_specs=cut, axis_names={*axes}
    )
    assert total(jax.jit(mapped), LEFT, RIGHT) == PRODUCT * (2 if "b" in axes else 1)


def test_a_kernel_counts_for_each_point_of_its_grid():
    def body(x, y, out):
        out[...] = x[...] @ y[...]

    kernel = pl.pallas_call(
        body,
        out_shape=shaped(3 * M, N),
        grid=(3,),
        in_specs=[pl.BlockSpec((M, K), lambda i: (i, 0)), pl.BlockSpec((K, N), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((M, N), lambda i: (i, 0)),
        interpret=True,
    )
    assert total(kernel, shaped(3 * M, K), RIGHT) == 3 * PRODUCT


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_blocks_counts_as_the_whole_matrix(causal):
    operands = (
        shaped(BATCH, TOKENS, HEADS, 6),
        shaped(BATCH, 19, KV_HEADS, 6),
        shaped(BATCH, 19, KV_HEADS, 4),
    )

    def gradients(implementation):
        def attend(*operands):
            return dot_product_attention(*operands, is_causal=causal, implementation=implementation).sum()

        return jax.value_and_grad(attend, argnums=(0, 1, 2))

    forward = 2 * BATCH * HEADS * TOKENS * 19 * (6 + 4)
    for implementation in ("xla", "blockwise"):
        assert total(gradients(implementation), *operands) == 3 * forward
    mapped = [shaped(3, *x.shape) for x in operands]
    assert total(jax.vmap(gradients("blockwise")), *mapped) == 9 * forward


def test_a_transformer_costs_six_flops_a_parameter_and_token_and_its_attention(counts):
    """Every matrix meets each token once forward and twice backward; the table of embeddings is looked up."""
    leaves = jax.tree.leaves(nnx.state(language_model(), nnx.Param))
    matrices = sum(leaf.size for leaf in leaves if leaf.ndim == 2) - VOCABULARY * WIDTH
    attention = 12 * LAYERS * BATCH * HEADS * TOKENS**2 * HEAD
    assert counts["list"].total == 6 * matrices * BATCH * TOKENS + attention


def test_a_scanned_stack_counts_as_a_list(counts):
    assert counts["list"].to_depth(9) == counts["scan"].to_depth(9)
    assert counts["remat"].to_depth(9) == counts["both"].to_depth(9)


def test_remat_counts_what_is_computed_again(counts):
    """All of a layer but its last product, whose output nothing in the backward pass needs."""
    layers = counts["list"].to_depth(3)["model.decoder.layers"]
    last = LAYERS * 2 * BATCH * TOKENS * WIDTH * HIDDEN
    for name in ("remat", "both"):
        assert counts[name].recomputed == layers // 3 - last
        assert counts[name].model == counts["list"].total
    assert counts["list"].recomputed == 0


def test_modules_share_the_total(counts):
    for found in counts.values():
        assert sum(found.by_module.values()) == found.total
        assert sum(found.to_depth(2).values()) == found.total
    by_module, tokens = counts["scan"].by_module, BATCH * TOKENS
    assert by_module["head.linear"] == 6 * tokens * WIDTH * VOCABULARY
    assert by_module["model.decoder.layers.feed_forward.gate"] == 6 * LAYERS * tokens * WIDTH * HIDDEN
    assert by_module["model.decoder.layers.attention.k_proj"] == 6 * LAYERS * tokens * WIDTH * KV_HEADS * HEAD
    assert by_module["model.decoder.layers.attention"] == 12 * LAYERS * BATCH * HEADS * TOKENS**2 * HEAD
    assert f"model.decoder.layers.{LAYERS - 1}.attention" in counts["list"].by_module
