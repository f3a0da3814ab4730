"""`python -m jax_attn` is `jax-attn`."""

import sys

from jax_attn.cli import main

sys.exit(main())
