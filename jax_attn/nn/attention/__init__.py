"""The attention modules that models are built from."""
