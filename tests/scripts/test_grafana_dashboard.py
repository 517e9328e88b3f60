"""docs/grafana-dashboard.json shows every metric, and asks for none that does not exist."""

import re

from scripts.folders import ROOT
from tests.scripts.prometheus_queries import DASHBOARD, dashboard_queries, selectors

SOURCES = (
    ROOT / "node" / "diagnostics" / "metrics.py",
    ROOT / "client" / "api" / "metrics.py",
)
_SUFFIXES = ("_bucket", "_sum", "_count")


def known() -> set[str]:
    sources = "".join(file.read_text() for file in SOURCES)
    return set(re.findall(r'"(pbftci_\w+)"', sources))


def test_every_query_asks_for_a_metric_that_is_served() -> None:
    asked = {selector.metric for selector in selectors(dashboard_queries())}
    stems = {re.sub("(" + "|".join(_SUFFIXES) + ")$", "", name) for name in asked}
    assert len(stems) >= 12
    assert stems <= known()


def test_every_metric_is_shown_but_for_those_that_only_name_things() -> None:
    words = re.findall(r"pbftci_\w+", DASHBOARD.read_text())
    shown = {word.removesuffix("_bucket") for word in words}
    assert known() - shown == {
        "pbftci_info",
        "pbftci_builds",
        "pbftci_requests_executed_total",
    }
