"""The queries of the alert rules and of the dashboard, and the series that they ask for."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scripts.folders import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
RULES_FOLDER = ROOT / "deploy" / "prometheus"
RULES = RULES_FOLDER / "alerts.yml"
_SELECTOR = re.compile(r"(pbftci_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


class Selector(NamedTuple):
    """A metric, and for each of its labels that a query names: `=` or `=~`, and the value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def finds(self, metric: str, labels: dict[str, str]) -> bool:
        """Whether it takes such a series. Of a pattern only the label must be there."""
        return metric == self.metric and all(
            label in labels and (kind == "=~" or labels[label] == value)
            for label, kind, value in self.matchers
        )


def selectors(queries: Iterable[str]) -> set[Selector]:
    """What these queries ask for."""
    return {
        Selector(metric, tuple(_MATCHER.findall(matchers)))
        for query in queries
        for metric, matchers in _SELECTOR.findall(query)
    }


def rules(file: Path = RULES) -> list[dict[str, Any]]:
    """All alert rules, in the order of the file."""
    groups = yaml.safe_load(file.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule_queries() -> list[str]:
    """What the alerts ask for."""
    return [rule["expr"] for rule in rules()]


def dashboard_queries() -> list[str]:
    """What the dashboard's panels ask for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]
