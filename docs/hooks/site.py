"""What MkDocs calls while it builds: the generated pages join the written ones."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # MkDocs loads this file alone; what it describes is the tree around it

from docs.hooks import api  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages of the API, and refuse to describe what has no description."""
    missing = api.undocumented()
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    (entry,) = [entry for entry in config.nav or () if "API" in entry]
    entry["API"] = [{door: api.address(door)} for door in api.DOORS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for door in api.DOORS:
        files.append(File.generated(config, api.address(door), content=api.page(door)))
    return files
