"""`python client/index.py`: the same program as `python -m client`.

Python puts this file's folder first on the module path; there `import pbft` would fail and a
module of ours could shadow one of the standard library. So that entry is replaced by the
project's root before anything else is imported. Nothing imports this module.
"""

import sys

sys.path[0] = sys.path[0].rpartition("/")[0] or "."

from client.main import main  # noqa: E402 - the path must be right first

if __name__ == "__main__":
    sys.exit(main())
