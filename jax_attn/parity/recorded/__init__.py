"""A run of torch in files, and the comparison with it where there is no torch."""
