"""`torch.nn.MultiheadAttention`, whole: here it needs no rewriting."""

from torch import nn

TorchMultiheadAttention = nn.MultiheadAttention
"""`torch.nn.MultiheadAttention` itself."""
