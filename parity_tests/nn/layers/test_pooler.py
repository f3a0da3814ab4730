import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.catalogue.cases import pooling_cases
from jax_attn.nn.layers.pooler import Pooler
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_batch_independent, assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestPooler(TwinContract):
    rows = ("pooler", "pooler-mean", "pooler-max", "pooler-last", "pooler-gelu")


def pooler(**options) -> Pooler:
    return Pooler(7, **options, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))


@jax.enable_x64(True)
def test_the_first_token_speaks_for_all():
    module, x = pooler(), draw(3, 5, 7)
    assert_same(module(x), jnp.tanh(module.dense(x[:, 0])))
    assert_same(module(x.at[:, 1:].set(1e3)), module(x))
    assert_batch_independent(module, x)


DEFINITIONS = {
    "first": lambda tokens: tokens[0],
    "last": lambda tokens: tokens[-1],
    "mean": lambda tokens: tokens.mean(0),
    "max": lambda tokens: tokens.max(0),
}


@pytest.mark.parametrize("kind", DEFINITIONS)
@jax.enable_x64(True)
def test_only_what_is_no_padding_counts(kind):
    """Padding may stand anywhere and hold anything; of nothing else the vector and its gradient are 0."""
    x = np.array(draw(4, 5, 7))
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    x[~mask] = np.nan
    module = pooler(kind=kind, dense=False)

    @compiled
    def run(x, mask):
        pooled, pull = jax.vjp(lambda x: module(x, mask), x)
        return pooled, pull(jnp.ones_like(pooled))[0], module(x[0])

    pooled, gradient, alone = run(jnp.asarray(x), jnp.asarray(mask))
    expected = [DEFINITIONS[kind](x[i][mask[i]]) for i in range(3)]
    assert_same(pooled, np.array([*expected, np.zeros(7)]))
    assert_same(alone, expected[0])
    assert_same(gradient[~mask], np.zeros((10, 7)))


def test_those_of_bert_and_deberta():
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertPooler
    from transformers.models.deberta_v2.configuration_deberta_v2 import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import ContextPooler

    cases = pooling_cases(7)[:1]
    assert_equals(pooler(), BertPooler(BertConfig(hidden_size=7, num_attention_heads=1)), cases)
    config = DebertaV2Config(hidden_size=7, num_attention_heads=1, pooler_hidden_size=7)
    assert_equals(pooler(activation="gelu"), ContextPooler(config), cases)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="kind must be one of first, last, mean, max, got 'cls'"):
        pooler(kind="cls")
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        pooler(activation="gleu")
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(7,\)"):
        pooler()(jnp.ones(7))
    with pytest.raises(ValueError, match=r"mask must have shape \(5,\), got \(3, 5\)"):
        pooler()(jnp.ones((5, 7)), jnp.ones((3, 5), bool))
