"""Every submodule's calls on both sides, and the first that differs."""
