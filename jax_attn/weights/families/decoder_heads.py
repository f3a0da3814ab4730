"""The heads of decoder families: the language model, and classifiers of texts and tokens."""

from typing import Any

from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.span_head import SpanHead
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.weights.family import Head, Settings

HEAD_NULLABLE = {"classifier_dropout": float}
OTHERS = ("lm_head.", "score.", "classifier.", "qa_outputs.", "multiple_choice_head.")


def causal_lm(model: Part, config: Settings) -> Part:
    """The language model, whose head may be tied to the embeddings."""
    softcap = getattr(config, "final_logit_softcapping", None)
    if config.tie_word_embeddings:
        head = Part(TiedHead, vocab_size=config.vocab_size, softcap=softcap)
    else:
        head = Part(CausalLMHead, embed_dim=_width(model), vocab_size=config.vocab_size, softcap=softcap)
    return Part(CausalLM, model=model, head=head)


def text_classifier(model: Part, config: Settings) -> Part:
    """Scores of a text, from the last of its tokens."""
    head = Part(
        ClassificationHead,
        embed_dim=_width(model),
        num_classes=config.num_labels,
        pooling="last",
        bias=False,
    )
    return Part(TaskModel, model=model, head=head, reads="tokens_and_mask", padding_idx=config.pad_token_id)


def token_classifier(model: Part, config: Settings) -> Part:
    """Scores of each token."""
    dropout = 0.1 if config.classifier_dropout is None else config.classifier_dropout
    head = Part(
        TokenClassificationHead, embed_dim=_width(model), num_classes=config.num_labels, dropout=dropout
    )
    return Part(TaskModel, model=model, head=head)


def span_finder(model: Part, config: Settings) -> Part:
    """Scores of each token as the first and the last of an answer."""
    return Part(TaskModel, model=model, head=Part(SpanHead, embed_dim=_width(model)))


def decoder_heads(
    name: str, lm: str = "ForCausalLM", tokens: str = "score", span_prefix: str | None = None
) -> dict[str, Head]:
    """The heads of a family.

    Args:
        name: that of the family.
        lm: what Hugging Face calls the language model.
        tokens: what it calls the layer that scores tokens.
        span_prefix: what stands before the model's keys in the file of a `span_finder`; None is the family's.
    """

    def named(key: str) -> tuple[tuple[str, str], ...]:
        return ((r"^head\.linear\.", f"{key}."),)

    labels = {"num_labels": 2}
    return {
        f"{name}{lm}": Head(causal_lm, named("lm_head"), tied={"lm_head.weight": "embeddings.token.weight"}),
        f"{name}ForSequenceClassification": Head(text_classifier, named("score"), defaults=labels),
        f"{name}ForTokenClassification": Head(
            token_classifier, named(tokens), defaults={**labels, "classifier_dropout": None}
        ),
        f"{name}ForQuestionAnswering": Head(span_finder, named("qa_outputs"), prefix=span_prefix),
    }


def without_padding_of_minus_one(config: dict[str, Any]) -> dict[str, Any]:
    """The same, where a padding token of -1 is none, as old files write it."""
    return {**config, "pad_token_id": None} if config.get("pad_token_id") == -1 else config


def _width(model: Part) -> int:
    return model.arguments["embeddings"].arguments["embed_dim"]
