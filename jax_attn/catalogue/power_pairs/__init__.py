"""Small pairs of modules for mutations that no row of the catalogue has a place for."""
