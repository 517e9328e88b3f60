"""The pictures of docs/images, taken anew: of the pages of a running system, and of protocol runs.

Builds of the system that is shown run as plain processes. Times, ports and ids in the pictures are
those of the day they were taken.
"""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from playwright.async_api import Browser

from scripts.folders import ROOT, RUN
from scripts.harness import CLIENT, Network, ask, pipeline
from tests.browser.chromium import WAIT_MILLISECONDS, chromium, chromium_program
from tests.browser.small_png import smaller_png

IMAGES = ROOT / "docs" / "images"
# What the pages call the repository; it is fetched from a folder of this machine.
REPOSITORY = "https://git.example.org/shop.git"
WIDTH, HEIGHT, HEIGHT_MAX = 1160, 1000, 1400
# below what a picture ends with; what comes next did not appear
MARGIN = 5
WAIT_SECONDS_MAX = 120.0

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
    Picture("tests", "/builds/{carts}", ready="#tests .messages", until="#tests"),
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
# Reports of tests: one fails everywhere, another on one machine alone.
_CARTS = f"""\
odd=
case "$HOME" in
*/{DISSENTER}/*) odd="<failure message='expected 10.01, got 10.00'/>" ;;
esac
cat >report.xml <<END
<testsuite name="pytest">
<testcase classname="tests.test_carts" name="test_total" time="0.41"/>
<testcase classname="tests.test_carts" name="test_discount" time="1.20">
<failure message="15 % of 80.00 is 12.00, not 8.00"/></testcase>
<testcase classname="tests.test_carts" name="test_rounding" time="0.33">$odd</testcase>
<testcase classname="tests.test_carts" name="test_empty" time="0.12"/>
</testsuite>
END
exit 1
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


async def take_all(images: Path, wanted: Collection[str]) -> None:
    """Make the wanted files, and tell of each. Raises NoPicture, NoBrowser, NetworkFailed."""
    for scenario in SCENARIOS:
        if f"{scenario}.svg" in wanted:
            _write(images / f"{scenario}.svg", draw_scenario(scenario).encode())
    pictures = [picture for picture in PICTURES if f"{picture.name}.png" in wanted]
    if not pictures and f"{MESSAGES}.svg" not in wanted:
        return
    async with chromium(chromium_program()) as browser:
        with running_site() as (url, builds):
            if f"{MESSAGES}.svg" in wanted:
                drawn = ask(f"{url}/api/v1/builds/{builds['master']}/messages.svg").body
                _write(images / f"{MESSAGES}.svg", drawn)
            for picture in pictures:
                data = await take(browser, url, picture, builds)
                _write(images / f"{picture.name}.png", smaller_png(data))


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


async def take(browser: Browser, url: str, picture: Picture, builds: dict[str, str]) -> bytes:
    """The picture of a page as PNG. Raises NoPicture."""
    context = await browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=picture.colours
    )
    try:
        context.set_default_timeout(WAIT_MILLISECONDS)
        page = await context.new_page()
        answer = await page.goto(url + picture.path.format(**builds))
        if answer is None or not answer.ok:
            raise NoPicture(
                f"{picture.name}: {picture.path} is answered {answer and answer.status}"
            )
        await page.locator(picture.ready).first.wait_for()
        box = await page.locator(picture.until).last.bounding_box()
        if box is None:
            raise NoPicture(f"{picture.name}: {picture.until} did not appear")
        height = min(HEIGHT_MAX, int(box["y"] + box["height"]) + MARGIN)
        await page.set_viewport_size({"width": WIDTH, "height": height})
        return await page.screenshot()
    finally:
        await context.close()


# --- the system that is shown -----------------------------------------------------------------


@contextlib.contextmanager
def running_site() -> Iterator[tuple[str, dict[str, str]]]:
    """The gateway's URL, and the newest build of each branch, as long as the block lasts.

    Raises NetworkFailed.
    """
    with tempfile.TemporaryDirectory(prefix="screenshots-", dir=RUN) as folder:
        shop = {"url": REPOSITORY, "fetch_url": f"{folder}/repository.git"}
        overrides: dict[str, dict[str, object]] = {
            "node": {"repositories": [shop]},
            CLIENT: {"repositories": [{**shop, "unsigned_allowed": True}]},
            EQUIVOCATOR: {"fault_injection": "allowed"},
        }
        with Network(Path(folder), _branches(), overrides=overrides) as network:
            network.start()
            yield network.gateway_url, _live(network)


def _branches() -> dict[str, dict[str, str]]:
    """A small shop; each branch has a story."""
    fine = 'echo "test_rounding     ok"'
    return {
        "master": _files(fine),
        "discounts": _files(fine, discount="FAILED: 15 % of 80.00 is 12.00, not 8.00", code=1),
        "rounding": _files(_ROUNDING),
        "nightly": _files(fine, "sleep 600"),
        "carts": {
            ".pbft-ci.yml": yaml.safe_dump(
                {"image": "none", "commands": ["sh t.sh"], "tests": {"junit": ["report.xml"]}}
            ),
            "t.sh": _CARTS,
        },
    }


def _files(rounding: str, *more: str, discount: str = "ok", code: int = 0) -> dict[str, str]:
    """rounding: commands of the third test. more: of the pipeline, after the tests."""
    summary = "1 failed, 3 passed" if code else "4 passed"
    tests = _TESTS.format(rounding=rounding, discount=discount, code=code, summary=summary)
    return {"tests.sh": tests, **pipeline("sh tests.sh", *more, image="none")}


def _live(network: Network) -> dict[str, str]:
    """Builds of all kinds, one after the other; the newest of each branch."""
    builds: dict[str, str] = {}
    branches = ("carts", "carts", "carts", "master", "discounts", "rounding", "no-such-branch")
    for branch in (*branches, "master"):
        builds[branch] = network.post(branch)
        network.complete(builds[branch])
    _misbehave(network, "equivocating")
    network.complete(network.post("discounts"))
    _misbehave(network, None)
    builds["nightly"] = network.post("nightly")
    network.wait_until(
        lambda: network.build(builds["nightly"])["status"] == "building",
        "a build under way",
        WAIT_SECONDS_MAX,
    )
    return builds


def _misbehave(network: Network, fault: str | None) -> None:
    (node,) = (node for node in network.configuration.nodes if node.name == EQUIVOCATOR)
    body = json.dumps({"node_id": EQUIVOCATOR, "fault": fault}).encode()
    answer = ask(f"{node.listen.url}/pbft/simulate-byzantine", body)
    assert answer.status == 200, answer


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    print(f"{file.name}: {len(data)} bytes", flush=True)  # noqa: T201 - what it is run for


def main() -> None:
    """`python -m tests.browser.screenshots`; ./scripts/screenshots.sh sets the machine up first."""
    parser = argparse.ArgumentParser(prog="./scripts/screenshots.sh", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="take only these, as builds.png")
    parser.add_argument("--folder", type=Path, default=IMAGES, help="default: docs/images")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names())
    if unknown:
        parser.error(f"no such pictures: {', '.join(unknown)}; there are {', '.join(names())}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(arguments.folder, arguments.names or names()))


if __name__ == "__main__":
    main()
