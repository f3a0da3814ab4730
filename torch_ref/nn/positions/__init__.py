"""Ways to tell a token where it stands."""
