import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.functional.random_features import orthogonal_features, softmax_features
from jax_attn.nn.attention.performer import PerformerAttention, default_features
from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_causal, assert_same, compiled, draw
from parity_tests.nn.attention.decoding import decoded
from parity_tests.references import assert_equals


class TestPerformerAttention(TwinContract):
    rows = ("attention-performer", "attention-performer-causal")
    rounds = False
    elsewhere = ("attention-performer-causal",)  # the formula below


def attention(**options) -> PerformerAttention:
    return PerformerAttention(26, 2, 17, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@pytest.mark.parametrize("is_causal", [True, False])
@jax.enable_x64(True)
def test_it_is_the_formula_of_the_paper(is_causal):
    module, x = attention(is_causal=is_causal, chunk_size=2), draw(3, 5, 26)
    mask = jnp.array([[True] * 5, [False, False, True, True, True], [False] * 5])

    @compiled
    def run(x, mask):
        output, weights = module(x, mask=mask, return_weights=True)
        gradient = jax.grad(lambda x: jnp.sum(module(x, mask=mask) ** 2))(x)
        heads = jnp.einsum("bnts,bsnh->btnh", weights, module.v_proj(x).reshape(3, 5, 2, 13))
        return output, module.out_proj(heads.reshape(3, 5, 26)), weights, gradient

    output, from_weights, weights, gradient = run(x, mask)
    assert_same(output, from_weights)
    assert_same(gradient[2], jnp.zeros((5, 26)))
    omega = np.asarray(module.features[...])

    def phi(vector):  # equation 5 and lemma 1, with no factor taken out
        vector = vector / 13**0.25
        return np.exp(omega @ vector - vector @ vector / 2) / np.sqrt(17)

    for b, n, t in np.ndindex(3, 2, 5):
        q, k = (
            np.asarray(linear(x[b]))[:, 13 * n : 13 * (n + 1)] for linear in (module.q_proj, module.k_proj)
        )
        products = np.array([phi(q[t]) @ phi(k[s]) for s in range(5)]) * np.asarray(mask[b])
        products[t + 1 if is_causal else 5 :] = 0
        assert_same(weights[b, n, t], products / (products.sum() or 1))


@jax.enable_x64(True)
def test_with_eps_the_features_are_the_codes():
    x, features = draw(3, 5, 2, 13), draw(17, 13, seed=1)
    omega = np.asarray(features)
    for is_query in (True, False):
        ours = compiled(
            lambda x, is_query=is_query: softmax_features(x, features, is_query=is_query, eps=1e-4)
        )(x)
        for b, n in np.ndindex(3, 2):
            products = np.asarray(x[b, :, n]) * 13**-0.25 @ omega.T
            lengths = (np.asarray(x[b, :, n]) ** 2).sum(-1, keepdims=True) / 2 * 13**-0.5
            largest = products.max(-1, keepdims=True) if is_query else products.max()
            assert_same(ours[b, :, n], 17**-0.5 * (np.exp(products - lengths - largest) + 1e-4))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="performer-pytorch imports distutils, which is gone")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@jax.enable_x64(True)
def test_it_is_the_performer_package():
    """With its features, and what it adds to each of them."""
    from performer_pytorch import SelfAttention

    theirs = SelfAttention(26, heads=2, dim_head=13, nb_features=17, qkv_bias=True)
    ours = PerformerAttention(26, 2, 17, eps=1e-4, rngs=nnx.Rngs(0))
    names = [
        (r"([qkv])_proj", r"to_\1"), ("out_proj", "to_out"), ("features", "fast_attention.projection_matrix"),
    ]  # fmt: skip
    assert_equals(ours, theirs, [Case("", (np.asarray(draw(3, 5, 26)),))], names=names)


@pytest.mark.slow
def test_the_features_are_orthogonal_and_give_the_softmax_on_average():
    omega = orthogonal_features(jax.random.key(0), 17, 8)
    product = omega @ omega.T
    for block in (product[:8, :8], product[8:16, 8:16]):
        assert jnp.abs(block - jnp.diag(jnp.diag(block))).max() <= tolerances.SAME_FLOAT32
    assert jnp.abs(product[:8, 8:]).min() > 1e-4  # of different blocks they are not

    x, y = 0.7 * draw(1, 3, 1, 8), 0.7 * draw(1, 5, 1, 8, seed=1)

    @compiled
    def products(keys):
        def of(key):
            omega = orthogonal_features(key, 64, 8)
            q, k = (
                jnp.exp(z * 8**-0.25 @ omega.T - (z * z).sum(-1, keepdims=True) / 2 * 8**-0.5) for z in (x, y)
            )
            return jnp.einsum("btnm,bsnm->ts", q, k) / 64

        drawn = jax.vmap(of)(keys)
        return drawn.mean(0), drawn.std(0) / keys.shape[0] ** 0.5

    mean, error = products(jax.random.split(jax.random.key(1), 1000))
    exact = jnp.exp(jnp.einsum("btnh,bsnh->ts", x, y) * 8**-0.5)
    assert (jnp.abs(mean - exact) < 5 * error).all()
    assert (error < 0.05 * exact).all()


@jax.enable_x64(True)
def test_causal_attention_sees_the_past_alone_and_padding_may_hold_anything():
    module, x = attention(), draw(3, 5, 26)
    assert_causal(attention(is_causal=True, chunk_size=2), x)
    mask = jnp.arange(5) < jnp.array([[5], [3], [1]])
    run = compiled(lambda x: module(x, mask=mask))
    assert_same(run(jnp.where(mask[..., None], x, 1e3))[mask], run(x)[mask])


@jax.enable_x64(True)
def test_token_by_token_is_at_once():
    """In chunks, then one by one in a scan, though keys grow and their common factor with them; with padding."""
    module = attention(is_causal=True, chunk_size=2)
    x = draw(2, 9, 26) * jnp.arange(1.0, 10.0)[:, None]
    outputs, _ = compiled(lambda x: decoded(module, x))(x)
    for row, start in enumerate((0, 2)):
        assert_same(outputs[row : row + 1, start:], compiled(module)(x[row : row + 1, start:]))


def test_bad_arguments_are_refused():
    for options, message in (
        ({"num_heads": 3}, "embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"),
        ({"num_heads": 2, "num_features": 0}, "num_features must be at least 1, got num_features=0"),
        ({"num_heads": 2, "eps": -1.0}, "eps must be at least 0, got eps=-1.0"),
        ({"num_heads": 2, "chunk_size": 0}, "chunk_size must be at least 1, got chunk_size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            PerformerAttention(26, **options, rngs=nnx.Rngs(0))
    assert [default_features(head_dim) for head_dim in (13, 1)] == [33, 1]  # 13 log 13, and one at least
    module, x = PerformerAttention(26, 2, 17, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 26))
    for call, message in (
        ((x[..., :25],), r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5, 25\)"),
        ((x, None, jnp.ones((3, 4), bool)), r"mask must have shape \(3, 5\), got \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*call)
    causal = PerformerAttention(26, 2, 17, is_causal=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="is_causal=True is for self-attention: context must be None"):
        causal(x, x)
    cache = causal.init_cache(3)
    with_eps = PerformerAttention(26, 2, is_causal=True, eps=1e-4, rngs=nnx.Rngs(0))
    for call, message in (
        (lambda: module.init_cache(3), "a cache is for attention with is_causal=True"),
        (
            lambda: with_eps.init_cache(3),
            "eps must be 0 for a cache: .* got 0.0001",
        ),
        (lambda: module(x, cache=cache), "a cache is for attention with is_causal=True"),
        (lambda: causal(x[:2], cache=cache), r"cache.memory must have shape \(2, 2, 17, 14\), got"),
        (lambda: causal(x, cache=cache, return_weights=True), "return_weights needs every key"),
        (lambda: causal(x[0], cache=cache), "x must have a batch axis where there is a cache"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
