"""The PyTorch twins of `jax_attn`: same path, same class, same constructor arguments; plain and unoptimised.

Importing this package never imports jax.
"""
