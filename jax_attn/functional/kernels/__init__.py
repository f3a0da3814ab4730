"""What a chip does better than XLA: kernels for TPU and GPU. Never imported on the way to a CPU."""
