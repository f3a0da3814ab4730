"""BERT: an encoder that reads a text from both sides."""

from torch import nn

from torch_ref.checks import checked
from torch_ref.models.text_encoder import TextEncoder
from torch_ref.nn.layers.embeddings import Embeddings
from torch_ref.nn.layers.encoder import Encoder
from torch_ref.nn.layers.pooler import Pooler


class Bert(TextEncoder):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`.

    See `jax_attn.models.bert.Bert`, its twin, for the arguments: those of Hugging Face's `config.json`.

    Source: Devlin et al. (arXiv 1810.04805).
    """

    @checked()
    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        layer_norm_eps: float = 1e-12,
        add_pooling_layer: bool = True,
        norm_placement: str = "post",
        positions: str = "learned",
        pad_token_id: int | None = 0,
        initializer_range: float | None = 0.02,
        *,
        scan: bool = False,
        remat: bool = False,
    ):
        embeddings = Embeddings(
            vocab_size,
            hidden_size,
            max_position_embeddings,
            type_vocab_size,
            hidden_dropout_prob,
            positions,
            layer_norm_eps,
            pad_token_id,
        )
        encoder = Encoder(
            num_hidden_layers,
            hidden_size,
            num_attention_heads,
            intermediate_size,
            hidden_act,
            norm_placement,
            norm_placement == "pre",
            hidden_dropout_prob,
            attention_probs_dropout_prob,
            layer_norm_eps,
            scan=scan,
            remat=remat,
        )
        super().__init__(embeddings, encoder, Pooler(hidden_size) if add_pooling_layer else None)
        if initializer_range is not None:
            draw_normal(self, initializer_range)


def draw_normal(module: nn.Module, deviation: float) -> None:
    """Draw the weights of every linear layer and embedding below `module` from N(0, deviation²), biases 0."""
    for node in module.modules():
        if isinstance(node, nn.Linear | nn.Embedding):
            nn.init.normal_(node.weight, std=deviation)
        if isinstance(node, nn.Linear) and node.bias is not None:
            nn.init.zeros_(node.bias)
        if isinstance(node, nn.Embedding) and node.padding_idx is not None:
            nn.init.zeros_(node.weight[node.padding_idx])
