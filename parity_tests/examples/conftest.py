import sys
from pathlib import Path

# The examples are programs beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
