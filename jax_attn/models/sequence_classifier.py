"""A text to one score for each class."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jax_attn.functional.checks import checked
from jax_attn.models.bert import Bert, draw_normal
from jax_attn.models.task_model import TaskModel
from jax_attn.nn.layers.classification_head import ClassificationHead


class SequenceClassifier(TaskModel):
    """`head(bert(input_ids))`: an encoder, and a linear layer on its first token.

    Parameters: `model.…` as in `Bert`, without its pooler; `head.linear`.

    Args:
        num_classes: number of classes.
        hidden_size: width of the encoder.
        classifier_dropout: probability of dropping a feature before the last layer, while training.
        initializer_range: as in `Bert`, and of the last layer too.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is that of the parameters.
        param_dtype: dtype of the parameters.
        bert_arguments: the other arguments of `Bert`.

    Raises:
        ValueError: as in `Bert`, or `num_classes` is not positive.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    @checked
    def __init__(
        self,
        num_classes: int,
        hidden_size: int = 768,
        classifier_dropout: float = 0.1,
        initializer_range: float | None = 0.02,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        **bert_arguments: Any,
    ):
        bert = Bert(
            hidden_size=hidden_size,
            add_pooling_layer=False,
            initializer_range=initializer_range,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            **bert_arguments,
        )
        head = ClassificationHead(
            hidden_size, num_classes, classifier_dropout, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        super().__init__(bert, head)
        if initializer_range is not None:
            draw_normal(self.head, initializer_range)
