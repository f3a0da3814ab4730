"""The ladder's torch twins."""
