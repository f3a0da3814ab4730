"""What all pages to be read in a browser have in common: one file each, nothing beside it, in light and in dark."""
