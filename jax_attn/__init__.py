"""Attention variants and transformer components as Flax NNX modules, each beside a PyTorch twin.

The twins live in `torch_ref`, at the same path and under the same name; `jax-attn verify` proves that the
two compute the same thing. Importing this package never imports torch.

    from jax_attn.nn.attention.multi_head import MultiHeadAttention
    from jax_attn.parity import compare
    from jax_attn.weights import from_pretrained, load_state_dict, save_pretrained, state_dict
"""

__version__ = "0.1.0"
