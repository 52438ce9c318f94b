"""The example is plain modules in a folder, as its workflow file sees them; so are the helpers of these tests."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples" / "helpdesk")]
