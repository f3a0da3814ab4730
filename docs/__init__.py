"""The site. What makes the generated pages is in `hooks`."""
