"""What MkDocs calls while it builds: the generated pages join the written ones."""

import os
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # MkDocs loads this file alone; what it describes is the tree around it
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # a picture's program runs once

from docs.hooks import api, catalogue, speed  # noqa: E402
from jax_attn.pages.style import DARK, LIGHT  # noqa: E402

# The colours of our other pages, by the names of the theme's schemes.
PALETTE = f"[data-md-color-scheme=default] {{ {LIGHT} }}\n[data-md-color-scheme=slate] {{ {DARK} }}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages of the API, and refuse to describe what has no description."""
    missing = api.undocumented()
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    (entry,) = [entry for entry in config.nav or () if "API" in entry]
    entry["API"] = [{door: api.address(door)} for door in api.DOORS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, in place of what is written for readers without the site."""
    generated = {api.address(door): api.page(door) for door in api.DOORS}
    generated |= {"catalogue.md": catalogue.page(), "speed.md": speed.page(), "css/palette.css": PALETTE}
    for address, content in generated.items():
        if written := files.get_file_from_path(address):
            files.remove(written)
        files.append(File.generated(config, address, content=content))
    return files
