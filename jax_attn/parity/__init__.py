"""Prove that a Flax NNX module and a torch module compute the same thing."""
