import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jax_attn.models.sequence_classifier import SequenceClassifier
from parity_tests.contract import TwinContract


class TestSequenceClassifier(TwinContract):
    rows = ("sequence-classifier",)


def classifier(num_layers: int = 1, **options) -> SequenceClassifier:
    return SequenceClassifier(
        5,
        26,
        vocab_size=31,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=29,
        max_position_embeddings=11,
        **options,
        rngs=nnx.Rngs(0),
    )


IDS = jnp.asarray(np.random.default_rng(0).integers(31, size=(8, 7)))


def test_the_first_token_is_all_the_head_sees():
    module = classifier()
    module.eval()

    @jax.jit
    def both(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        return module(ids), module.head.linear(module.model(ids).last_hidden_state[:, 0])

    np.testing.assert_array_equal(*both(IDS))


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_it_learns_what_it_is_shown(scan):
    module = classifier(num_layers=2, scan=scan)
    optimizer = nnx.Optimizer(module, optax.adam(3e-3), wrt=nnx.Param)
    classes = jnp.arange(8) % 5

    @nnx.jit
    def step(module: SequenceClassifier, optimizer: nnx.Optimizer) -> jax.Array:
        def loss(module: SequenceClassifier) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(module(IDS), classes).mean()

        value, gradients = nnx.value_and_grad(loss)(module)
        optimizer.update(module, gradients)
        return value

    losses = [float(step(module, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.3 < 1.0 < losses[0]
    module.eval()
    logits = np.asarray(nnx.jit(lambda module: module(IDS))(module))
    np.testing.assert_array_equal(logits.argmax(-1), classes)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got num_classes=0"):
        SequenceClassifier(0, 26, num_attention_heads=2, num_hidden_layers=1, vocab_size=31, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="embed_dim must be divisible by num_heads, got embed_dim=26 and num_heads=3"
    ):
        SequenceClassifier(5, 26, num_attention_heads=3, vocab_size=31, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError,
        match=r"classifier_dropout must be a probability .*, got classifier_dropout=1\.5",
    ):
        classifier(classifier_dropout=1.5)
