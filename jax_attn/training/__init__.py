"""What a training loop is made of."""
