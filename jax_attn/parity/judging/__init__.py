"""The verdict on tensors: how far two are apart, and whether that is too far."""
