"""What a developer does whose build went red: what broke, since when, whose commit, which proof."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from playwright.async_api import expect

from scripts.harness import pipeline
from tests.browser.conftest import VisitorMaker
from tests.browser.site import Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

BRANCH = "history"
HOSTILE = "Round <b>prices</b> once \u202e\x1b[31m"
AUTHOR = "Ada Lovelace"


async def pushed_build(site: Site, work: Path, subject: str, *commands: str) -> str:
    """The id of a finished build of a new commit of the branch."""

    def push() -> None:
        def git(*arguments: str) -> None:
            who = ("-c", f"user.name={AUTHOR}", "-c", "user.email=ada@example.org")
            subprocess.run(["git", "-C", work, *who, *arguments], check=True, capture_output=True)

        if not work.exists():
            work.mkdir()
            git("init", "--quiet", f"--initial-branch={BRANCH}", ".")
        for name, text in pipeline(*commands).items():
            (work / name).write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--cleanup=verbatim", f"--message={subject}")
        git("push", "--quiet", str(site.network.repository), BRANCH)

    await asyncio.to_thread(push)
    build = await site.begin(BRANCH)
    await site.complete(build)
    return build


async def test_from_a_red_build_to_its_cause_and_its_proof(
    site: Site, visit: VisitorMaker, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    green = await pushed_build(site, work, "Begin", "echo fine")
    red = await pushed_build(site, work, HOSTILE, "echo compiling", "echo 1 test failed; exit 7")
    again = await site.begin(BRANCH)
    await site.complete(again)

    visitor = await visit(site.origin)
    page = await visitor.open(f"/?branch={BRANCH}")
    await expect(page.locator(f"tr[data-key='{red}'] .says")).to_contain_text("Round <b>prices</b>")
    await page.locator(f"tr[data-key='{again}'] a.name").click()

    # whose commit, since when, what is new
    await expect(page.locator(".subject")).to_contain_text("Round <b>prices</b> once")
    await expect(page.locator("main > header, #summary header").first).to_contain_text(AUTHOR)
    changed = page.locator("#what-changed")
    await expect(changed.locator("dd").nth(0).locator("a")).to_have_attribute(
        "href", f"/builds/{green}"
    )
    await expect(changed.locator("dd").nth(1)).to_contain_text("2 builds so far")
    await expect(changed.locator("dd").nth(1).locator("a")).to_have_attribute(
        "href", f"/builds/{red}"
    )
    await expect(changed.locator("dd").nth(2)).to_contain_text("2 failed")
    await expect(changed.locator("summary")).to_have_text(
        "1 commit new in the first build that failed"
    )
    await expect(changed.locator("ol.commits li")).to_have_count(1)

    # the failing step, by its place in the log
    steps = page.locator("#steps li")
    await expect(steps.filter(has_text="failed")).to_have_count(1)
    await steps.filter(has_text="failed").locator("a").click()
    log = page.locator("#log")
    await expect(log.locator("details.step[open]")).to_contain_text("1 test failed")
    await page.get_by_role("link", name="Show times").click()
    await expect(log.locator(".at").first).to_have_text("0:00.0")
    await page.get_by_label("Search in the log").fill("TEST FAILED")
    await page.keyboard.press("Enter")
    found = page.locator("ol.found li")
    await expect(found.first.locator("mark")).to_have_text("test failed")
    await found.last.locator("a").click()
    await expect(log.locator("a:target")).to_be_in_viewport()

    # the proof
    await page.goto(f"{site.origin}/builds/{again}/proof")
    await expect(page.locator("ol.proof > li.good")).to_have_count(5)
    await expect(page.locator("ol.proof > li.bad")).to_have_count(0)
    await expect(page.locator("ol.proof > li[data-key=ballots]")).to_contain_text("later")
    await page.locator("ol.proof summary").first.click()
    await expect(page.locator("ol.proof pre").first).to_contain_text(f"proof {again}")
