"""The example is plain modules in a folder, as its workflow file sees them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "coding"))
