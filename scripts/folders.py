"""Where things are in this project, and a lock against two scripts that make the same things."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# All that is made at run time; git ignores both.
RUN = ROOT / "run"
LOG = ROOT / "log"
EXAMPLE_CONFIG = ROOT / "example-config"


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold a lock that other processes see; says so where it has to wait for one of them."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another start that is running ...", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
