"""Which tests may run beside each other, where there are several workers.

The rule: whoever looks for what is left on the engine needs it for himself, so all files with
tests that use Docker are one after the other; a file's tests share fixtures, so they stay together.
All tests in a browser share one, and what it looks at.

Timings are never asserted, so hypothesis does not either: how long one example takes, and how long
it takes to draw one, says how busy the machine is.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
BROWSER = "tests/browser/"

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file per worker at a time; all that use Docker, or the browser, as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file.startswith(BROWSER):
            return BROWSER
        return "docker" if file in _DOCKER_FILES else file


_DOCKER_FILES = {
    str(file.relative_to(ROOT))
    for file in (ROOT / "tests").rglob("test_*.py")
    if "mark.docker" in file.read_text()
}


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    """Asked by pytest-xdist, when it has several workers."""
    return _Scheduling(config, log)
