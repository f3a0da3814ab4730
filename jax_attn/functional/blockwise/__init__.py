"""Attention in blocks with an online softmax: memory in proportion to the length, on every platform."""
