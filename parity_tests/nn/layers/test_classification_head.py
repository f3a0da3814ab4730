import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.cases import token_cases
from jax_attn.nn.layers.classification_head import ClassificationHead
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_batch_independent, assert_same, draw
from parity_tests.references import assert_equals


class TestClassificationHead(TwinContract):
    rows = ("classification-head", "classification-head-dense", "classification-head-pooled")


@jax.enable_x64(True)
def test_the_first_token_decides():
    module, x = ClassificationHead(7, 5, rngs=nnx.Rngs(0), param_dtype=jnp.float64), draw(3, 5, 7)
    assert module(x).shape == (3, 5)
    assert_same(module(x.at[:, 1:].set(1e3)), module(x))
    assert_batch_independent(module, x)


def test_those_of_roberta_and_electra():
    from transformers.models.electra.configuration_electra import ElectraConfig
    from transformers.models.electra.modeling_electra import ElectraClassificationHead
    from transformers.models.roberta.configuration_roberta import RobertaConfig
    from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

    sizes = {"hidden_size": 7, "num_attention_heads": 1, "num_labels": 5}
    for activation, theirs in (
        ("tanh", RobertaClassificationHead(RobertaConfig(**sizes))),
        ("gelu", ElectraClassificationHead(ElectraConfig(**sizes))),
    ):
        ours = ClassificationHead(7, 5, dense=True, activation=activation, rngs=nnx.Rngs(0))
        assert_equals(ours, theirs, token_cases(7)[:1], names=[("linear", "out_proj")])


def test_the_dense_layer_may_have_a_dropout_of_its_own():
    """DistilBERT's has none: then all that training changes is what the last layer reads."""
    rngs, x = nnx.Rngs(0), jnp.ones((100, 2, 1))
    module = ClassificationHead(1, 1, 0.5, dense=True, activation="relu", input_dropout=0.0, rngs=rngs)
    for layer in (module.dense, module.linear):
        layer.kernel[...], layer.bias[...] = jnp.ones((1, 1)), jnp.ones(1)
    assert set(np.unique(module(x))) == {1.0, 5.0}
    module = ClassificationHead(1, 1, 0.0, dense=True, activation="relu", input_dropout=0.5, rngs=rngs)
    for layer in (module.dense, module.linear):
        layer.kernel[...], layer.bias[...] = jnp.ones((1, 1)), jnp.ones(1)
    assert set(np.unique(module(x))) == {2.0, 4.0}


def test_dropout_comes_before_the_linear_layer():
    module = ClassificationHead(1, 1, dropout=0.5, rngs=nnx.Rngs(0))
    module.linear.kernel[...], module.linear.bias[...] = jnp.ones((1, 1)), jnp.ones(1)
    assert set(np.unique(module(jnp.ones((100, 2, 1))))) == {1.0, 3.0}


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got num_classes=0"):
        ClassificationHead(7, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        ClassificationHead(7, 5, activation="gleu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        ClassificationHead(7, 5, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
    with pytest.raises(ValueError, match=r"x must have shape \(7\) or \(t, 7\), got \(5, 8\)"):
        ClassificationHead(7, 5, pooling=None, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
