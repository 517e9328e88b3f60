"""docs/grafana-dashboard.json asks only for metrics and labels that exist."""

import json
import re
from pathlib import Path

from scripts.folders import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
SOURCES = (
    ROOT / "node" / "diagnostics" / "metrics.py",
    ROOT / "client" / "api" / "metrics.py",
)
_SUFFIXES = ("_bucket", "_sum", "_count")


def known(sources: tuple[Path, ...]) -> set[str]:
    return set(re.findall(r'"(pbftci_\w+)"', "".join(file.read_text() for file in sources)))


def test_every_query_asks_for_a_metric_that_is_served() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = set(re.findall(r"pbftci_\w+", " ".join(queries)))
    stems = {re.sub("(" + "|".join(_SUFFIXES) + ")$", "", name) for name in asked}
    assert len(stems) >= 12
    assert stems <= known(SOURCES)


def test_every_metric_is_shown_but_for_those_that_only_name_things() -> None:
    words = re.findall(r"pbftci_\w+", DASHBOARD.read_text())
    shown = {word.removesuffix("_bucket") for word in words}
    unseen = known(SOURCES) - shown
    assert unseen == {
        "pbftci_info",
        "pbftci_builds",
        "pbftci_notices_total",
        "pbftci_requests_executed_total",
    }
