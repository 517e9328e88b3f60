"""The pictures of docs/images, taken anew: of the pages of a running system, and of protocol runs.

The system is one of its own: other ports and folders than the demo's, builds as plain processes, a
repository behind `git daemon`. Times and ids in the pictures are those of the day they were taken.
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, sync_playwright

from common.configuration.config import ConfigError
from scripts.chromium import ARGUMENTS, NoBrowser, chromium_program
from scripts.configuration import Configuration, write_configuration
from scripts.example_repository import GitFailed, write_repository
from scripts.folders import ROOT, RUN, exclusive
from scripts.gateway import Gateway, GatewayFailed
from scripts.network import client_program, node_programs
from scripts.processes import Processes, StartFailed
from scripts.small_png import smaller_png

IMAGES = ROOT / "docs" / "images"
FOLDER = RUN / "screenshots"
CLIENT_PORT = 10890
GIT_PORT = 10891
BASE_PORT = 10892
WIDTH, HEIGHT, HEIGHT_MAX = 1160, 1000, 1400
# below what a picture ends with; what comes next did not appear
MARGIN = 5
WAIT_SECONDS_MAX = 120.0
POLL_SECONDS = 0.1
LOAD_MILLISECONDS_MAX = 30_000

DISSENTER = "node3"
EQUIVOCATOR = "node2"


@dataclass(frozen=True)
class Picture:
    """A page to be shown. path: {branch} stands for the id of that branch's newest build.

    ready: what is to be seen on it before the picture is taken. until: the last element that is in
    the picture. Both as CSS selectors of playwright.
    """

    name: str
    path: str
    ready: str = "main"
    until: str = "body"
    colours: Literal["light", "dark"] = "light"


PICTURES = (
    Picture("builds", "/"),
    Picture("builds-dark", "/", colours="dark"),
    Picture("build", "/builds/{rounding}", ready="#first-difference", until="#differences"),
    Picture(
        "build-under-way",
        "/builds/{nightly}",
        ready=".tail pre:has-text('test_currency')",
        until="#replicas",
    ),
    Picture(
        "comparison",
        "/builds/{rounding}/compare?left=node0&right=node3",
        ready="#first-difference",
    ),
    Picture(
        "replicas",
        "/replicas",
        ready=f"#replica-{EQUIVOCATOR}:has-text('misbehaviour')",
        until=f"#replica-{EQUIVOCATOR}",
    ),
    Picture(
        "ledger",
        "/ledger",
        ready="main:has-text('Verified by this gateway')",
        until="table.ledger tbody tr:nth-child(9)",
    ),
)
# The drawing of a real build, from the API.
MESSAGES = "messages"
# And of simulated runs; `python -m simulator list`.
SCENARIOS = ("normal-case", "primary-crash", "equivocation", "too-many-faulty")

_TESTS = """\
echo "collected 4 tests"
echo "test_total        ok"
echo "test_discount     {discount}"
{rounding}
echo "test_currency     ok"
echo "{summary}"
exit {code}
"""
# What differs between machines: here the folder, elsewhere a library, a clock, a kernel.
_ROUNDING = f"""\
case "$HOME" in
*/{DISSENTER}/*) echo "test_rounding     FAILED: 10.005 became 10.00, not 10.01"; exit 1 ;;
*) echo "test_rounding     ok" ;;
esac"""


class NoPicture(RuntimeError):
    """A picture could not be taken; the text says why."""


def names() -> list[str]:
    """The files that are made in docs/images."""
    return [
        *(f"{picture.name}.png" for picture in PICTURES),
        f"{MESSAGES}.svg",
        *(f"{scenario}.svg" for scenario in SCENARIOS),
    ]


def take_all(images: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Make the files whose names are wanted, and give each one once it is there.

    Raises NoPicture, StartFailed, GatewayFailed, ConfigError, GitFailed.
    """
    images.mkdir(parents=True, exist_ok=True)
    for scenario in SCENARIOS:
        if wanted(f"{scenario}.svg"):
            yield _write(images / f"{scenario}.svg", draw_scenario(scenario).encode())
    pictures = [picture for picture in PICTURES if wanted(f"{picture.name}.png")]
    if not pictures and not wanted(f"{MESSAGES}.svg"):
        return
    with running_site() as (url, builds):
        if wanted(f"{MESSAGES}.svg"):
            drawn = _get(f"{url}/api/v1/builds/{builds['master']}/messages.svg")
            yield _write(images / f"{MESSAGES}.svg", drawn)
        if pictures:
            with running_browser() as browser:
                for picture in pictures:
                    data = take(browser, url, picture, builds)
                    yield _write(images / f"{picture.name}.png", smaller_png(data))


def draw_scenario(name: str) -> str:
    """The picture in the page that `python -m simulator show` makes. Raises NoPicture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        done = subprocess.run(
            [sys.executable, "-m", "simulator", "show", name, "--html", str(page)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS_MAX,
        )
        text = page.read_text(encoding="utf-8") if page.exists() else ""
    found = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    if found is None:
        raise NoPicture(f"{name}: the simulator drew nothing: {done.stderr.strip()[-400:]}")
    return found[0] + "\n"


def take(browser: Browser, url: str, picture: Picture, builds: dict[str, str]) -> bytes:
    """The picture of a page as PNG. Raises NoPicture."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=picture.colours
    )
    try:
        context.set_default_timeout(LOAD_MILLISECONDS_MAX)
        page = context.new_page()
        answer = page.goto(url + picture.path.format(**builds))
        if answer is None or not answer.ok:
            raise NoPicture(
                f"{picture.name}: {picture.path} is answered {answer and answer.status}"
            )
        page.locator(picture.ready).first.wait_for()
        box = page.locator(picture.until).last.bounding_box()
        if box is None:
            raise NoPicture(f"{picture.name}: {picture.until} did not appear")
        height = min(HEIGHT_MAX, int(box["y"] + box["height"]) + MARGIN)
        page.set_viewport_size({"width": WIDTH, "height": height})
        return page.screenshot()
    finally:
        context.close()


# --- the system that is shown -----------------------------------------------------------------


@contextlib.contextmanager
def running_site() -> Iterator[tuple[str, dict[str, str]]]:
    """The gateway's URL, and the newest build of each branch, as long as the block lasts."""
    with exclusive(RUN / "screenshots.lock"):
        shutil.rmtree(FOLDER, ignore_errors=True)
        write_repository(FOLDER / "shop.git", _branches())
        processes = Processes(FOLDER / "pids", FOLDER / "output")
        configuration = _configuration()
        try:
            processes.spawn("git-daemon", _git_daemon())
            processes.start([*node_programs(configuration), client_program(configuration)])
            yield configuration.client.listen.url, _live(configuration)
        finally:
            processes.stop()


def _configuration() -> Configuration:
    address = f"git://127.0.0.1:{GIT_PORT}/shop.git"
    return write_configuration(
        FOLDER / "config",
        replicas=4,
        repositories=[address],
        run_folder=FOLDER,
        log_folder=FOLDER / "log",
        base_port=BASE_PORT,
        client_port=CLIENT_PORT,
        executor="process",
        overrides={EQUIVOCATOR: {"fault_injection": "allowed"}},
    )


def _git_daemon() -> list[str]:
    # `git daemon` would start this as a second process, which nobody would end
    found = subprocess.run(
        ["git", "--exec-path"], check=True, capture_output=True, text=True, timeout=10
    )
    return [
        f"{found.stdout.strip()}/git-daemon",
        "--export-all",
        "--reuseaddr",
        "--listen=127.0.0.1",
        f"--port={GIT_PORT}",
        f"--base-path={FOLDER}",
        str(FOLDER),
    ]


def _branches() -> dict[str, dict[str, str]]:
    """A small shop; each branch has a story."""
    fine = 'echo "test_rounding     ok"'
    return {
        "master": _files(fine),
        "discounts": _files(fine, discount="FAILED: 15 % of 80.00 is 12.00, not 8.00", code=1),
        "rounding": _files(_ROUNDING),
        "nightly": {".pbft-ci.yml": "image: none\ncommands: [sh tests.sh, sleep 600]\n"}
        | _files(fine, pipeline=False),
    }


def _files(
    rounding: str, discount: str = "ok", code: int = 0, *, pipeline: bool = True
) -> dict[str, str]:
    summary = "1 failed, 3 passed" if code else "4 passed"
    tests = _TESTS.format(rounding=rounding, discount=discount, code=code, summary=summary)
    files = {"tests.sh": tests}
    if pipeline:
        files[".pbft-ci.yml"] = "image: none\ncommands: [sh tests.sh]\n"
    return files


def _live(configuration: Configuration) -> dict[str, str]:
    """Builds of all kinds, one after the other; the newest of each branch."""
    url = configuration.client.listen.url
    gateway = Gateway(url)
    builds: dict[str, str] = {}
    for branch in ("master", "discounts", "rounding", "no-such-branch", "master"):
        builds[branch] = gateway.post_webhook(branch)
        _wait_until_complete(url, builds[branch])
    equivocator = next(node for node in configuration.nodes if node.name == EQUIVOCATOR)
    _misbehave(equivocator.listen.url, "equivocating")
    _wait_until_complete(url, gateway.post_webhook("discounts"))
    _misbehave(equivocator.listen.url, None)
    builds["nightly"] = gateway.post_webhook("nightly")
    _wait(lambda: _view(url, builds["nightly"])["status"] == "building", "a build under way")
    return builds


def _misbehave(url: str, fault: str | None) -> None:
    _get(
        f"{url}/pbft/simulate-byzantine",
        json.dumps({"node_id": EQUIVOCATOR, "fault": fault}).encode(),
    )


def _wait_until_complete(url: str, build: str) -> None:
    def is_complete() -> bool:
        view = _view(url, build)
        found = {row["replica"] for row in view["ballots"] if row["log_sha256"] is not None}
        return len(view["ballots"]) == 4 and found <= set(view["logs"])

    _wait(is_complete, f"all ballots and logs of {build}")


def _view(url: str, build: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_get(f"{url}/api/v1/builds/{build}"))
    return value


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() > end:
            raise NoPicture(f"{what}: not there within {WAIT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)


def _get(url: str, body: bytes | None = None) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, body, timeout=WAIT_SECONDS_MAX) as response:
            data: bytes = response.read()
            return data
    except OSError as error:
        raise NoPicture(f"{url}: {error}") from error


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium, as long as the block lasts. Raises NoPicture."""
    try:
        program = chromium_program()
    except NoBrowser as error:
        raise NoPicture(str(error)) from error
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def _write(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


def main() -> int:
    """`python -m scripts.screenshots`; ./scripts/screenshots.sh sets the machine up first."""
    parser = argparse.ArgumentParser(prog="./scripts/screenshots.sh", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="take only these, as builds.png")
    parser.add_argument("--folder", type=Path, default=IMAGES, help="default: docs/images")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names())
    if unknown:
        parser.error(f"no such pictures: {', '.join(unknown)}; there are {', '.join(names())}")
    try:
        for file in take_all(
            arguments.folder, lambda name: not arguments.names or name in arguments.names
        ):
            print(f"{file.name}: {file.stat().st_size} bytes", flush=True)
    except (NoPicture, StartFailed, GatewayFailed, ConfigError, GitFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
