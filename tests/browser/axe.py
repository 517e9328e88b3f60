"""axe-core on a page: what people with a keyboard, a screen reader or weak eyes cannot use."""

from importlib import resources

from playwright.async_api import Page

SCRIPT = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
# All rules, and the one of WCAG 2.2 AA that is off by itself.
ALL_RULES = "{resultTypes: ['violations'], rules: {'target-size': {enabled: true}}}"
# What another colour scheme can change.
COLOUR_RULES = "{resultTypes: ['violations'], runOnly: ['color-contrast', 'link-in-text-block']}"


async def faults_of(page: Page, rules: str = ALL_RULES) -> list[str]:
    """A line for each place where axe-core finds a violation of these rules."""
    await page.evaluate(SCRIPT)
    found = await page.evaluate(f"axe.run(document, {rules})")
    return [
        f"{violation['impact']}: {violation['help']}: {node['html']}: "
        + " ".join(node["failureSummary"].split())
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
