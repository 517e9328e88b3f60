"""Debian's Chromium, as the tests and the pictures start it."""

import shutil

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


def chromium_program() -> str | None:
    """The path of this machine's Chromium, or None."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)
