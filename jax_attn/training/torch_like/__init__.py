"""Optimizers, clipping, schedules, losses and initialisers that equal torch's, under its names."""
