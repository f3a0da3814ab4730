"""Why two modules differ: known faults that explain it, and settings that are not the same."""
