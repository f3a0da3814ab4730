"""BERT: an encoder that reads a text from both sides."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jax_attn.functional.checks import checked
from jax_attn.models.text_encoder import TextEncoder
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.primitives import Conv, Embedding, Linear


class Bert(TextEncoder):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`.

    The arguments carry the names of Hugging Face's `config.json`, so its values are keyword arguments here.

    Parameters: `embeddings.{token,position,segment,norm}`, `encoder.layers.{i}.{attention.{q,k,v,out}_proj,
    attention_norm, feed_forward.{up,down}, feed_forward_norm}`, `pooler.dense`.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the model.
        num_hidden_layers: number of encoder layers.
        num_attention_heads: number of attention heads; it divides `hidden_size`.
        intermediate_size: width inside the feed-forward layers.
        hidden_act: "gelu" (with erf), "gelu_new" or "gelu_pytorch_tanh" (with tanh), or "relu".
        hidden_dropout_prob: dropout after the embeddings and on what is added to the skip connections.
        attention_probs_dropout_prob: dropout on the attention weights.
        max_position_embeddings: the most tokens it takes.
        type_vocab_size: number of token types (segments).
        layer_norm_eps: epsilon of the layer norms.
        add_pooling_layer: whether it ends in a pooler.
        norm_placement: "post", as BERT, or "pre", which ends in one more layer norm (`encoder.norm`).
        positions: "learned", as BERT, or "sinusoidal".
        pad_token_id: the token of padding, whose vector starts at zero and is not trained; None is none.
        initializer_range: standard deviation of the initial weights, which are normal, with biases of 0, as BERT;
            None leaves torch's own draws.
        scan: whether the encoder's layers are stacked and run as one loop; see `Encoder`.
        remat: whether the backward pass computes each layer again, to save memory.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is that of the parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: heads that do not divide the width, an unknown activation, ids that are not integers or
            not `(b, t)`, more tokens than positions, a mask that is neither boolean nor integer or has
            another shape than the ids.

    Source: Devlin et al. (arXiv 1810.04805).
    """

    @checked
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
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
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
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
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
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        pooler = (
            Pooler(hidden_size, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            if add_pooling_layer
            else None
        )
        super().__init__(embeddings, encoder, pooler)
        if initializer_range is not None:
            draw_normal(self, initializer_range)


def draw_normal(
    module: nnx.Module,
    deviation: float | Callable[[Sequence[Any], nnx.Module], float],
    cutoff: float | None = None,
) -> None:
    """Make the initial weights of every `Linear`, `Conv` and `Embedding` below `module` normal, and the biases 0.

    The draws that are there are kept and scaled. `Linear` drew from U(-b, b), b = 1/sqrt(d_in), and
    `jax.random.normal` is such a draw through the inverse error function: so is this, of one layer or of a stack.
    `deviation` may be a function of the path to a part and of the part.
    With `cutoff`, none is further from 0 than that many deviations, as in `torch.nn.init.trunc_normal_`.
    """
    if not callable(deviation) and not deviation > 0:
        raise ValueError(f"initializer_range must be above 0, or None for torch's own draws, got {deviation}")
    within = 1.0 if cutoff is None else math.erf(cutoff * 2**-0.5)  # the part of a normal that is kept

    def deviation_of(path: Sequence[Any], node: nnx.Module) -> Any:
        return deviation(path, node) if callable(deviation) else deviation

    def normal(uniform: jax.Array) -> jax.Array:
        most = jnp.nextafter(jnp.ones((), uniform.dtype), jnp.zeros((), uniform.dtype))
        return 2**0.5 * jax.lax.erf_inv(within * jnp.clip(uniform, -most, most))

    for path, node in nnx.iter_modules(module, graph=True):
        if not isinstance(node, Embedding | Linear | Conv):
            continue
        wide = deviation_of(path, node)
        if isinstance(node, Embedding):
            table = node.embedding[...]
            table = table if cutoff is None else normal(jax.lax.erf(table * 2**-0.5))
            node.embedding.set_value(wide * table)
            continue
        node.kernel.set_value(wide * normal(node.kernel[...] * _inputs(node) ** 0.5))
        if node.bias is not None:
            node.bias.set_value(jnp.zeros_like(node.bias[...]))


def _inputs(node: Linear | Conv) -> int:
    """How many numbers each output is a sum of."""
    if isinstance(node, Linear):
        return node.in_features
    return node.in_features // node.feature_group_count * math.prod(node.kernel_size)
