"""`python ./node/index.py`: the same program as `python -m node`.

Run as a file, Python puts `node/` first on the path: `import pbft` would fail, and a module here
could shadow the standard library. So that entry is replaced before any other import.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from node.main import main  # noqa: E402 - the path had to be set first

sys.exit(main())
