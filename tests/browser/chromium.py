"""Debian's Chromium, driven by playwright, and what no page may do in it.

The rule: every page that a test opens is watched. An error on the console, which a breach of the
Content-Security-Policy is too, a dialog, a window that nobody asked for, or a request to another
server is a fault, and a test ends by asserting that there were none.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    async_playwright,
    expect,
)

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
# Generous: the machine may be busy with other tests.
WAIT_MILLISECONDS = 60_000
expect.set_options(timeout=WAIT_MILLISECONDS)


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


@contextlib.asynccontextmanager
async def chromium(path: str) -> AsyncIterator[Browser]:
    """The browser with a profile of its own, which is gone afterwards."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=path,
            args=list(ARGUMENTS),
            # root has no sandbox of its own, and containers permit none
            chromium_sandbox=False,
            timeout=WAIT_MILLISECONDS,
        )
        try:
            yield browser
        finally:
            await browser.close()


class Visitor:
    """One person before the browser, with cookies of their own, at one site.

    faults: what went wrong so far, a line each. requests: all that the pages asked for. allowed:
    the origins of other sites that this person goes to.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        """Watch every page of this context. origin: `http://host:port`."""
        self.context = context
        self.origin = origin
        self.allowed: set[str] = {origin}
        self.faults: list[str] = []
        self.requests: list[Request] = []
        self._opened: list[Page] = []
        context.set_default_timeout(WAIT_MILLISECONDS)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))
        context.on("dialog", self._on_dialog)
        context.on("request", self._on_request)

    async def open(self, path: str) -> Page:
        """A new page, with this path of the site loaded."""
        page = await self.context.new_page()
        self._opened.append(page)
        await page.goto(self.origin + path)
        return page

    async def leave(self) -> None:
        """Close everything, and assert that nothing went wrong."""
        others = [page.url for page in self.context.pages if page not in self._opened]
        if others:
            self.faults.append(f"windows: {others}")
        await self.context.close()
        assert not self.faults, "\n".join(self.faults)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.faults.append(f"console: {message.text} ({message.location})")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        if not any(request.url.startswith(f"{origin}/") for origin in self.allowed):
            self.faults.append(f"a request to {request.url}")
