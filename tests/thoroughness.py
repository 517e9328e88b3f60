"""How much the long tests try: as much as each change is worth, or so many times as much.

Before a release: `PBFT_CI_TIMES=5 ./scripts/test.sh --full`
"""

import os


def times(count: int) -> int:
    """So many, times PBFT_CI_TIMES (1)."""
    return count * max(1, int(os.environ.get("PBFT_CI_TIMES", "1")))
