"""A text to one score for each class."""

from typing import Any

from torch_ref.checks import checked
from torch_ref.models.bert import Bert, draw_normal
from torch_ref.models.task_model import TaskModel
from torch_ref.nn.layers.classification_head import ClassificationHead


class SequenceClassifier(TaskModel):
    """`head(bert(input_ids))`: an encoder, and a linear layer on its first token.

    See `jax_attn.models.sequence_classifier.SequenceClassifier`, its twin, for the arguments.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    @checked()
    def __init__(
        self,
        num_classes: int,
        hidden_size: int = 768,
        classifier_dropout: float = 0.1,
        initializer_range: float | None = 0.02,
        **bert_arguments: Any,
    ):
        bert = Bert(
            hidden_size=hidden_size,
            add_pooling_layer=False,
            initializer_range=initializer_range,
            **bert_arguments,
        )
        head = ClassificationHead(hidden_size, num_classes, classifier_dropout)
        super().__init__(bert, head)
        if initializer_range is not None:
            draw_normal(self.head, initializer_range)
