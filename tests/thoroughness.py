"""How much the long tests try: a part of what was once run by hand, or so many times as much.

`PBFT_CI_TIMES=10 ./scripts/test.sh -m long tests/node/storage/test_store_crash_states.py`
"""

import os


def times(count: int) -> int:
    """So many, times PBFT_CI_TIMES (1)."""
    return count * max(1, int(os.environ.get("PBFT_CI_TIMES", "1")))
