"""Why two modules differ: known mutations that explain it, and settings that are not the same."""
