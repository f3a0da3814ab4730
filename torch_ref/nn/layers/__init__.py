"""The parts of a transformer around its attention."""
