"""`python -m jax_attn` is `jax-attn`."""

import sys

from jax_attn.cli import main

if __name__ == "__main__":
    sys.exit(main())
