"""The ladder: from dot products to FlexAttention, each step a small change to the one before."""
