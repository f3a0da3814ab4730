"""What a training step costs: FLOPs, bytes, collectives and time, without the hardware."""
