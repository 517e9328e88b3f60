"""client.commands.progress: a build so far, in lines."""

from typing import Any

import pytest

from client.commands.progress import progress_lines


def row(**more: object) -> dict[str, Any]:
    known = {"replica": "node0", "has_ballot": False, "state": None, "seen": None, "problem": None}
    return {**known, **more}


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, "no ballot"),
        ({"state": "none"}, "no ballot"),
        ({"state": "building: test"}, "building: test"),
        ({"state": "stand-by"}, "stand-by: it need not build"),
        ({"has_ballot": True, "state": "found failed 1"}, "found failed 1"),
        ({"state": "checkout", "problem": "down", "seen": "12:00"},
         "no ballot: checkout (last seen 12:00); down"),
        ({"state": "building: \x1b[2J"}, "building: \\x1b[2J"),
    ],
)  # fmt: skip
def test_a_line_for_a_replica(known: dict[str, object], text: str) -> None:
    build = {
        "id": "a" * 64,
        "repository": "https://example.org/team/r.git",
        "branch": "ma\nin",
        "commit": "c" * 40,
        "status": "building",
        "verdict": None,
        "detail": None,
        "replicas": [row(**known)],
    }
    first, second = progress_lines(build)
    assert first == f"{'a' * 12}  building  {'c' * 12}  example.org/team/r ma\\nin"
    assert second == f"  node0     {text}"
