"""Debian's Chromium, as the tests and the pictures start it."""

import shutil
import subprocess
import sys

PROGRAMS = ("chromium", "chromium-headless-shell")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # small in containers, and then pages crash
    "--disable-dev-shm-usage",
)


DRIVER_SECONDS_MAX = 60.0


class NoBrowser(Exception):
    """No page can be looked at on this machine; one line what is missing."""


def chromium_program() -> str:
    """The path of this machine's Chromium, once what drives it starts. Raises NoBrowser."""
    path = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if path is None:
        raise NoBrowser("no Chromium here: install chromium, or run scripts/test.sh as root")
    # playwright's own Node.js: where a library is missing it only says that it is gone.
    command = (sys.executable, "-m", "playwright", "--version")
    tried = subprocess.run(
        command, capture_output=True, text=True, timeout=DRIVER_SECONDS_MAX, check=False
    )
    if tried.returncode != 0:
        reason = (tried.stderr.strip() or "it wrote nothing").splitlines()[-1]
        raise NoBrowser(f"playwright does not start ({reason}): run scripts/test.sh as root")
    return path
