"""One layer of an encoder: attention, then feed-forward, each with a skip connection and a norm."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked, require_known
from jax_attn.functional.logical_axes import constrain
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.drop_path import DropPath
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.primitives import Dropout, make_norm

NORM_PLACEMENTS = ("post", "pre", "sandwich", "parallel", "parallel_two_norms")


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each added to what it was computed from, with norms where they are wanted.

    ===================== ============================================================ ==========================
    norm_placement        with `f` attention, then feed-forward                        as
    ===================== ============================================================ ==========================
    "post"                `x = norm(α x + f(x))`                                       2017, BERT; DeepNorm
    "pre"                 `x = x + f(norm(x))`                                         GPT-2, ViT, Llama
    "sandwich"            `x = x + output_norm(f(norm(x)))`                            Gemma 2
    "parallel"            `x = x + attention(norm(x)) + feed_forward(norm(x))`         GPT-J, PaLM, Cohere
    "parallel_two_norms"  the same, and the feed-forward has a norm of its own         GPT-NeoX, Falcon
    ===================== ============================================================ ==========================

    With a `layer_scale` what is added is `γ` times as much, and while training `drop_path` leaves it out by chance.

    Parameters: `attention.…` and `feed_forward.…`, as they have them; `attention_norm`; `feed_forward_norm`,
    but with "parallel"; with "sandwich" `attention_output_norm` and `feed_forward_output_norm`; with `layer_scale`
    `attention_scale` and `feed_forward_scale`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of attention heads; it divides `embed_dim`. Not needed where `attention` is given.
        hidden_dim: width inside the feed-forward. Not needed where `feed_forward` is given.
        activation: of the feed-forward, as in `FeedForward`.
        norm_placement: as above.
        dropout: probability of dropping an element of what is added to the skip connections, while training.
        attention_dropout: probability of dropping an attention weight, while training.
        eps: epsilon of the norms; None is the default of their class.
        norm: kind of the norms: "layer", "layer_without_bias", "rms" or "rms_unit_offset", as in `make_norm`.
        residual_scale: `α` of post-norm; DeepNorm's is given by `deepnorm_scales`.
        layer_scale: initial value of `γ`, a learned factor for each feature of a branch; None is no such factor.
        drop_path: probability of going by a branch with a whole sequence, while training.
        attention: the self-attention, built: whatever is called as `attention(x, mask=mask)`. None is a
            `MultiHeadAttention` of the sizes above.
        feed_forward: what each token goes through, built, its own dropout with it, as `feed_forward(x)`; one with
            `takes_mask = True`, as `MixtureOfExperts`, as `feed_forward(x, mask=mask)`, where the layer's mask
            tells padding. None is a `FeedForward` of the sizes above.
        first_norm: whether pre-norm's attention reads a norm: in ModernBERT's first layer it reads the embeddings,
            which have one.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `norm_placement`, `norm` or `activation` is not known, `num_heads` does not divide `embed_dim`,
            a size is missing or that of a part is another, `residual_scale` or `first_norm` is given where it has
            no meaning, or input or mask has a wrong shape.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1; pre-norm: Xiong et al. (2002.04745); sandwich: Gemma 2
    (2408.00118); parallel: GPT-J, PaLM (2204.02311); DeepNorm: Wang et al. (2203.00555); layer scale: Touvron et
    al. (2103.17239); stochastic depth: Huang et al. (1603.09382).
    """

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int | None = None,
        hidden_dim: int | None = None,
        activation: str = "gelu",
        norm_placement: str = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float | None = 1e-12,
        norm: str = "layer",
        residual_scale: float = 1.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        attention: Any = None,
        feed_forward: Any = None,
        first_norm: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("norm_placement", norm_placement, NORM_PLACEMENTS)
        if residual_scale != 1.0 and norm_placement != "post":
            raise ValueError(
                f'residual_scale is for norm_placement="post", got {residual_scale} and {norm_placement!r}'
            )
        if not first_norm and norm_placement != "pre":
            raise ValueError(f'first_norm=False is for norm_placement="pre", got {norm_placement!r}')
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embed_dim = embed_dim
        self.norm_placement = norm_placement
        self.residual_scale = residual_scale
        if attention is None:
            heads = require_given("num_heads", num_heads, "attention")
            attention = MultiHeadAttention(embed_dim, heads, dropout=attention_dropout, **options)
        self.attention = require_width("attention", attention, embed_dim)
        self.attention_norm = make_norm(norm, embed_dim, eps, **options) if first_norm else None
        if feed_forward is None:
            hidden_dim = require_given("hidden_dim", hidden_dim, "feed_forward")
            feed_forward = FeedForward(embed_dim, hidden_dim, activation, dropout, **options)
        self.feed_forward = require_width("feed_forward", feed_forward, embed_dim)
        self.feed_forward_norm = (
            None if norm_placement == "parallel" else make_norm(norm, embed_dim, eps, **options)
        )
        self.attention_output_norm, self.feed_forward_output_norm = (
            make_norm(norm, embed_dim, eps, **options) if norm_placement == "sandwich" else None
            for _ in range(2)
        )
        self.attention_scale, self.feed_forward_scale = (
            None if layer_scale is None else LayerScale(embed_dim, layer_scale, **options) for _ in range(2)
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.drop_path = DropPath(drop_path, rngs=rngs) if drop_path else None

    @property
    def is_parallel(self) -> bool:
        """Whether the feed-forward reads what the attention reads."""
        return self.norm_placement.startswith("parallel")

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None = None, **options: Any
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape.

        Args:
            x: the tokens.
            mask: as in `MultiHeadAttention`.
            options: what else the attention takes: positions, segment ids, a bias.
        """
        attended = self.attention(self.normed("attention", x), mask=mask, **options)
        after = self.added("attention", x, self.dropout(attended))
        return self.feed(x, after, mask)

    def feed(
        self, x: Float[Array, "*b t d"], after: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None
    ) -> Float[Array, "*b t d"]:
        """The last branch: it reads what the attentions left, or side by side with them what they read."""
        read = self.normed("feed_forward", x if self.is_parallel else after)
        options = {}
        if getattr(self.feed_forward, "takes_mask", False):
            options = {"mask": padding_mask(mask, x.shape[:-1])}
        return self.added("feed_forward", after, self.feed_forward(read, **options))

    def normed(self, branch: str, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """What a branch reads."""
        if self.norm_placement == "post":
            return x
        name = "attention" if self.norm_placement == "parallel" else branch
        norm = getattr(self, f"{name}_norm")
        return x if norm is None else norm(x)

    def added(
        self, branch: str, x: Float[Array, "*b t d"], output: Float[Array, "*b t d"]
    ) -> Float[Array, "*b t d"]:
        """`x` with the output of a branch added to it."""
        if self.norm_placement == "sandwich":
            output = getattr(self, f"{branch}_output_norm")(output)
        scale = getattr(self, f"{branch}_scale")
        output = output if scale is None else scale(output)
        output = output if self.drop_path is None else self.drop_path(output)
        x = x if self.residual_scale == 1.0 else x * self.residual_scale
        x = constrain(x + output, "batch", "length", None)
        return getattr(self, f"{branch}_norm")(x) if self.norm_placement == "post" else x


def padding_mask(mask: Bool[Array, "..."] | None, shape: tuple[int, ...]) -> Bool[Array, "*b t"] | None:
    """Which tokens of `shape` are no padding, of a mask that says so; None of one of pairs of tokens."""
    return jnp.broadcast_to(mask, shape) if mask is not None and mask.ndim == len(shape) else None


def require_given(name: str, size: int | None, part: str) -> int:
    """Return the size; raise ValueError where neither it nor the part that is built from it is given."""
    if size is None:
        raise ValueError(f"{name} must be given, or {part}, got neither")
    return size


def require_width(name: str, part: Any, embed_dim: int) -> Any:
    """Return the part; raise ValueError where it says of itself that it takes or gives another width."""
    for width in (getattr(part, of, embed_dim) for of in ("embed_dim", "out_dim")):
        if width != embed_dim:
            raise ValueError(f"{name} must be for embed_dim={embed_dim}, got one for {width}")
    return part
