"""axe-core on a page: what people with a keyboard, a screen reader or weak eyes cannot use."""

from importlib import resources

from playwright.async_api import Page

# the package has a wrapper too, which knows no levels of faults
SCRIPT = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
BAD = ("serious", "critical")


async def faults_of(page: Page) -> list[str]:
    """A line for each place where axe-core finds a serious or critical fault."""
    await page.evaluate(SCRIPT)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']}: {violation['help']}: {node['html']}: "
        + " ".join(node["failureSummary"].split())
        for violation in found["violations"]
        if violation["impact"] in BAD
        for node in violation["nodes"]
    ]
