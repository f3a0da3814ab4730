"""One side of a comparison: how a module of either framework is built, called and differentiated."""
