"""deploy/prometheus: promtool takes the rules and their tests, and each alert has all it needs."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.folders import ROOT
from tests.scripts.prometheus_queries import RULES, RULES_FOLDER, rules

TESTS = RULES_FOLDER / "alerts_test.yml"
# where `scripts/test.sh` unpacks it
UNPACKED = ROOT / "run" / "promtool" / "usr" / "bin"
PROMTOOL_SECONDS = 300.0


def run_promtool(*arguments: str) -> tuple[int, str]:
    """Its exit code, and all that it says."""
    program = shutil.which("promtool", path=f"{os.environ.get('PATH', '')}:{UNPACKED}")
    if program is None:
        pytest.skip("promtool is not here: `./scripts/test.sh` unpacks it")
    done = subprocess.run(
        [program, *arguments],
        check=False,
        cwd=RULES_FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROMTOOL_SECONDS,
    )
    return done.returncode, done.stdout


def anchors(page: Path) -> set[str]:
    """The fragments by which a page's headings are linked."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def expectations() -> dict[str, list[list[Any]]]:
    """By alert, what each of its tests expects."""
    found: dict[str, list[list[Any]]] = {}
    for group in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in group.get("alert_rule_test", ()):
            found.setdefault(case["alertname"], []).append(case["exp_alerts"])
    return found


def test_promtool_takes_the_rules() -> None:
    code, said = run_promtool("check", "rules", RULES.name)
    assert code == 0, said


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    code, said = run_promtool("test", "rules", TESTS.name)
    assert code == 0, said


def test_each_alert_is_tested_while_it_fires_and_while_it_does_not() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    found = expectations()
    assert set(found) == set(names)
    for name, expected in found.items():
        assert any(expected), f"{name} never fires"
        assert not all(expected), f"{name} always fires"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_how_grave_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")
    page, _, fragment = rule["annotations"]["runbook"].partition("#")
    assert fragment in anchors(ROOT / page)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_operators_find_each_alert_in_one_table(rule: dict[str, Any]) -> None:
    """In the row of its runbook, and in the column of its severity."""
    page = (ROOT / "docs" / "OPERATING.md").read_text()
    (row,) = [line for line in page.splitlines() if f"`{rule['alert']}`" in line]
    _, runbook, pages, tickets, _ = row.split("|")
    assert rule["annotations"]["runbook"].partition("#")[2] in runbook
    column = pages if rule["labels"]["severity"] == "page" else tickets
    assert f"`{rule['alert']}`" in column
