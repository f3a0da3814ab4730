"""From a spectrogram to vectors, half as many as it has frames."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS


class ConvolutionStem(nn.Module):
    """`activation(conv2(activation(conv1(x))))`: kernels of 3 frames, the second with a step of 2.

    See `jax_attn.nn.layers.convolution_stem.ConvolutionStem`, its twin. Here too the features are the last axis.

    Source: Radford et al. (arXiv 2212.04356), section 2.2.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(self, num_features: int, embed_dim: int, activation: str = "gelu"):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv1d(num_features, embed_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(embed_dim, embed_dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, num_features)` to `(ceil(t / 2), embed_dim)`, or the same with a batch axis before."""
        x = self.activation(self.conv1(x.transpose(-1, -2)))
        return self.activation(self.conv2(x)).transpose(-1, -2)
