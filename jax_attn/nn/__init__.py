"""The modules that models are built from."""
