import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue.cases import token_cases
from jax_attn.nn.layers.masked_lm_head import MaskedLMHead
from jax_attn.nn.primitives import Embedding
from parity_tests.contract import TwinContract
from parity_tests.references import assert_equals


class TestMaskedLMHead(TwinContract):
    rows = ("masked-lm-head", "masked-lm-head-tied")


class Tied(nnx.Module):
    """The head with the table that it is tied to."""

    def __init__(self, embed_dim: int, rngs: nnx.Rngs, **options):
        self.token = Embedding(31, options.get("embedding_dim", embed_dim), rngs=rngs)
        self.head = MaskedLMHead(embed_dim, 31, **options, rngs=rngs)

    def __call__(self, x):
        return self.head(x, self.token.embedding[...])


def test_those_of_bert_and_albert():
    from transformers.models.albert.configuration_albert import AlbertConfig
    from transformers.models.albert.modeling_albert import AlbertMLMHead
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    cases = token_cases(7)[:1]
    sizes = {"vocab_size": 31, "hidden_size": 7, "num_attention_heads": 1}
    theirs = BertLMPredictionHead(BertConfig(**sizes, hidden_act="gelu_new"))
    del theirs.bias  # its decoder has another
    names = [(r"^dense\b", "transform.dense"), (r"^norm\b", "transform.LayerNorm")]
    untied = MaskedLMHead(7, 31, "gelu_new", tied=False, rngs=nnx.Rngs(0))
    assert_equals(untied, theirs, cases, names=names)
    beside = [(r"^token\b", "decoder"), (r"^head\.(tied_)?", ""), *names]
    assert_equals(Tied(7, nnx.Rngs(0), activation="gelu_new"), theirs, cases, names=beside)

    config = AlbertConfig(**sizes, embedding_size=5, hidden_act="gelu_new")
    theirs = AlbertMLMHead(config)
    del theirs.bias
    names = [(r"^token\b", "decoder"), (r"^head\.(tied_)?", ""), (r"^norm\b", "LayerNorm")]
    ours = Tied(7, nnx.Rngs(0), activation="gelu_new", embedding_dim=5, eps=theirs.LayerNorm.eps)
    assert_equals(ours, theirs, cases, names=names)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        MaskedLMHead(7, 31, "gleu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"norm must be one of layer, .*, got 'batch'"):
        MaskedLMHead(7, 31, norm="batch", rngs=nnx.Rngs(0))
    x, table = jnp.ones((5, 7)), jnp.ones((31, 7))
    with pytest.raises(ValueError, match="table must be the table of the embeddings, for tied=True"):
        MaskedLMHead(7, 31, rngs=nnx.Rngs(0))(x)
    with pytest.raises(ValueError, match="table must be None, for tied=False"):
        MaskedLMHead(7, 31, tied=False, rngs=nnx.Rngs(0))(x, table)
    with pytest.raises(ValueError, match=r"table must have shape \(31, d\), got \(7, 31\)"):
        MaskedLMHead(7, 31, rngs=nnx.Rngs(0))(x, table.T)
